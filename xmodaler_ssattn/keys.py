"""The batch contract: the keys that we add to X-modaler's, with shape, dtype and unit.

Letters: B images, S captions per image, N = B S captions, K regions (padded to the largest image of the batch), k
regions of one image, C classes, D feature size, T words.

X-modaler's own keys keep their meaning, with two differences inside our captioner: ``kfg.ATT_FEATS`` stays one
row per image until the visual embedding (the host repeats it S times at once), and ``kfg.G_TOKENS_IDS`` is never
overwritten by the current word.

Samples of a dataset of another project
---------------------------------------
One dict per image, as ``Flickr30kEntitiesDataset`` does; arrays or tensors, without the batch dimension. ``kfg`` is
X-modaler's, from ``xmodaler_ssattn.host``.

=================== ==================== =========================================================================
key                 sample               needed
=================== ==================== =========================================================================
kfg.IDS             int                  always; X-modaler's trainer calls ``int()`` on it
kfg.ATT_FEATS       (k, D) float32       always; D is MODEL.VISUAL_EMBED.IN_DIM, k at least 1
BOXES_PX            (k, 4) float32       always; x1, y1, x2, y2 in pixels
SPATIAL             (k, 5) float32       always; ``boxes.spatial_vectors(BOXES_PX, width, height)``
IMAGE_SIZE          (2,) float32         always; width, height in pixels
CLASS_PROBS         (k, C) float32       with MODEL.SS_ATTENTION.{ENABLED True, SEMANTIC_INPUT c}, with
                                         MODEL.VISUAL_EMBED.NAME SpatialSemanticEmbedding, with MODEL.DECODER
                                         LSTMADecoder, and in evaluation with a rule of classes as
                                         INFERENCE.REGION_RULE; C is MODEL.SS_ATTENTION.NUM_CLASSES
kfg.SEQ_PER_SAMPLE  int                  in training; S, the same for all images
kfg.G_TOKENS_IDS    S x (T,) int64       in training; [0, w1, ..., wn], words counted from 1
kfg.G_TARGET_IDS    S x (T,) int64       in training; [w1, ..., wn, 0]
SIGMA               (1, k) or (S, k)     in training with GroundingLoss in LOSSES.NAMES; ``data.sigma.beta_target``
                    float32              computes it from boxes
HAS_BOXES           (1,) or (S,) float32 with SIGMA
WORD_PAIRS          (n, 3) int64         in training with WordAttentionLoss or PointerLoss in LOSSES.NAMES: number of
                                         the caption in the sample, position of the word from 0, region; n may be 0
PAIR_WEIGHTS        (n,) float32         with WORD_PAIRS; above 0
WORD_SPANS          (n, 3) int64         in training with ProphetCaptioner: number of the caption in the sample, first
                                         word of a phrase from 0, and the word after its last one; n may be 0
REF_TOKENS_IDS      list of (T,) int64   in evaluation with INFERENCE.GT_ATTENTION True; [0, w1, ..., wn]
=================== ==================== =========================================================================

INFERENCE.VOCAB is needed only to write words: for evaluation, and for decoding with ``output_sents``.
"""

# --- from the mapper, collated by the captioner ------------------------------------------------------
BOXES_PX = "SSATTN_BOXES_PX"  # (B, K, 4) float32, x1, y1, x2, y2 in pixels of the original image; zeros on padding
IMAGE_SIZE = "SSATTN_IMAGE_SIZE"  # (B, 2) float32, width and height in pixels
SPATIAL = "SSATTN_SPATIAL"  # (B, K, 5) float32, the paper's p: x1/W, x2/W, y1/H, y2/H, area share s; zeros on padding
# (B, K, C) float32, the paper's c, background first; zeros on padding. Present if a slot uses it.
CLASS_PROBS = "SSATTN_CLASS_PROBS"
# (B, 1, K) or (B, S, K) float32 >= 0, the paper's indicator 0/1 or a graded target; a row per image or per caption.
SIGMA = "SSATTN_SIGMA"
# (B, 1) or (B, S) float32 0/1: whether that row of sigma is from at least one ground-truth box.
HAS_BOXES = "SSATTN_HAS_BOXES"
# A ``WordPairs`` of three tensors (n,): words, int64, as index into the flattened (N, T) targets (in the model's output
# as row of WORD_ALPHA); regions, int64; weights, float32. A sample has an array instead, see above.
WORD_PAIRS = "SSATTN_WORD_PAIRS"
PAIR_WEIGHTS = "SSATTN_PAIR_WEIGHTS"  # only in a sample: the weights of WORD_PAIRS
# (N, T, 2) int64: the first word of each target word's phrase and the word after its last one; 0, 0 outside phrases. A
# sample has a table instead, see above.
WORD_SPANS = "SSATTN_WORD_SPANS"
NEED_ATTENTION = (WORD_PAIRS, WORD_SPANS)  # keys for which training returns the attention of every word
# (B, S, T) int64, [0, w1, ..., wn, -1, ...]: the reference captions to force for the attention accuracy.
REF_TOKENS_IDS = "SSATTN_REF_TOKENS_IDS"
# Our keys with one row per region, (k, ...) in a sample, in addition to kfg.ATT_FEATS.
PER_REGION = (BOXES_PX, SPATIAL, CLASS_PROBS)
# Only in a sample: the name of the table of this image's regions on the device (``fast/resident.py``); its
# ``gather(rows, device)`` returns them. The sample then has no ATT_FEATS, PER_REGION keys and IMAGE_SIZE.
RESIDENT = "SSATTN_RESIDENT"
RESIDENT_ROW = "SSATTN_RESIDENT_ROW"  # int, only in a sample: the image's row in that table

# --- Python values that the captioner adds, known without waiting for the device ----------------------
CAPTIONS_PER_IMAGE = "SSATTN_CAPTIONS_PER_IMAGE"  # int: S
NUM_REGIONS = "SSATTN_NUM_REGIONS"  # list of B ints: the true number of regions of each image
# list of N ints: the number of words to predict in each caption, including the end.
CAPTION_LENGTHS = "SSATTN_CAPTION_LENGTHS"
# int: M, the number of predicted words of the batch, including ends; the divisor of the grounding loss.
NUM_WORDS = "SSATTN_NUM_WORDS"

# --- inside the model ---------------------------------------------------------------------------------
# (B, K, D): the encoder's V before the visual embedding; Table 2 feeds it to the SS attention.
RAW_FEATS = "SSATTN_RAW_FEATS"
# (N,) int64: the image of each row of ATT_FEATS; None when there is one row per image.
IMAGE_OF_ROW = "SSATTN_IMAGE_OF_ROW"
IMAGE_MASK = "SSATTN_IMAGE_MASK"  # (B, K): 1 for a region, 0 for padding, one row per image
# (B, K): 0 for a region, -1e4 for padding, one row per image; None when nothing is padded.
IMAGE_EXT_MASK = "SSATTN_IMAGE_EXT_MASK"
# (rows of ATT_FEATS, K): the spatial-semantic distribution, constant in time; absent in the baseline.
BETA = "SSATTN_BETA"
ROW_LOG_BETA = "SSATTN_ROW_LOG_BETA"  # (rows of ATT_FEATS, K): log beta, for the fusions that need the logarithm
# (rows of ATT_FEATS, K, STATE_DIM): W_e s_i, compared with the state for beta_t; absent without STATE_DIM.
STATE_KEYS = "SSATTN_STATE_KEYS"
LOG_BETA = "SSATTN_LOG_BETA"  # (B, K) float32: log beta (log-softmax in one step), which the grounding loss reads
# (N, K): the basic attention of the last step. It may have more columns or none, see ``GroundedDecoder``.
ALPHA = "SSATTN_ALPHA"
GAMMA = "SSATTN_GAMMA"  # (N, K): gamma = alpha + lambda beta of the last step, the weights that pool v-hat
# (N, E): the v-hat of this step, instead of the decoder's attention; see ``methods/second_pass.py``.
GIVEN_V_HAT = "SSATTN_GIVEN_V_HAT"
# (N, n) int64: the region of each branch of a decoder with n branches of attention, at the last step.
BRANCH_REGIONS = "SSATTN_BRANCH_REGIONS"
# (N, n, classes), at the last step: each branch's scores of the object classes; of all words, (M, n, classes).
BRANCH_LOGITS = "SSATTN_BRANCH_LOGITS"
# A ``Decoded`` of the decoders: word ids, log-probabilities, alpha and gamma of the best captions.
DECODED = "SSATTN_DECODED"
# () float32: the mean cross-entropy of the words, instead of G_LOGITS, if LOSSES.NAMES contains FusedCrossEntropy.
CROSS_ENTROPY = "SSATTN_CROSS_ENTROPY"
# (B, K, 1 + classes) float32: a class head's scores of the captions' object classes before the softmax, background
# first; only with GVDRegionEmbedding.
REGION_CLASS_SCORES = "SSATTN_REGION_CLASS_SCORES"
# (M, K) float32: alpha of the step that predicts each word, in the order of G_TARGET_IDS; only with WORD_PAIRS.
WORD_ALPHA = "SSATTN_WORD_ALPHA"
WORD_GAMMA = "SSATTN_WORD_GAMMA"  # (M, K) float32: gamma of the same steps
# (M,) int64: the caption (of N) of each of the M predicted words, in the order of G_LOGITS and G_TARGET_IDS.
CAPTION_OF_WORD = "SSATTN_CAPTION_OF_WORD"
# () float32: the mean cross-entropy of a second pass with given v-hat; see ``methods/second_pass.py``.
SECOND_CROSS_ENTROPY = "SSATTN_SECOND_CROSS_ENTROPY"
# (M, K) float32: alpha-hat, the attention that knows the words of the phrase, in the order of WORD_ALPHA.
PROPHET_ALPHA = "SSATTN_PROPHET_ALPHA"
IN_PHRASE = "SSATTN_IN_PHRASE"  # (M,) bool: whether each predicted word is in a phrase

# --- in self-critical training ------------------------------------------------------------------------
WORD_REGIONS = "SSATTN_WORD_REGIONS"  # (N, T) int64: the region of each sampled word
# int or None: the word that is never decoded (UNK); probabilities are among the other words.
SUPPRESSED_WORD = "SSATTN_SUPPRESSED_WORD"
