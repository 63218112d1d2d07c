"""Every config key of this package, with the paper's symbol and the reason for the default.

The captioner's ``add_config`` adds all keys, the decoder's only those of the decoder, because X-modaler
calls both. They may be called in any order and repeatedly: an existing key keeps its value.
"""

from __future__ import annotations

from typing import Any


def _node(parent: Any, name: str) -> Any:
    """The child node ``name``, created empty when missing; works for every host's CfgNode class."""
    if name not in parent:
        parent[name] = type(parent)()
    return parent[name]


def _defaults(node: Any, **values: Any) -> None:
    for key, value in values.items():
        if key not in node:
            node[key] = value


def add_ss_attention_config(cfg: Any) -> None:
    """MODEL.SS_ATTENTION, the paper's section 2.2, and the Up-Down keys that the decoder shares."""
    # The stock UpDownDecoder's own keys and defaults, so that its yaml files keep their meaning.
    _defaults(
        _node(cfg.MODEL, "UPDOWN"),
        ATT_EMBED_SIZE=512,  # width of W_h h + W_v v; the paper's 512
        DROPOUT1=0.0,  # on the inputs of the attention LSTM
        DROPOUT2=0.0,  # on the inputs of the language LSTM
        ATT_EMBED_DROPOUT=0.0,  # on f(W_h h + W_v v)
    )
    _defaults(
        _node(cfg.MODEL, "SS_ATTENTION"),
        ENABLED=True,  # False: gamma = alpha, the Up-Down baseline with the same code and the same weights
        LAMBDA=0.5,  # lambda in gamma = alpha + lambda beta; the paper's 0.5. Write 0.0, not 0: the host checks types
        # How alpha and beta become gamma. 'sum': the paper's alpha + lambda beta. 'log', beyond the paper:
        # softmax(a + kappa log beta) with a learned kappa that starts at 1; LAMBDA is then unused.
        FUSION="sum",
        RENORMALIZE=False,  # divide the paper's sum by 1 + lambda, so that gamma sums to 1
        # Beyond the paper: above 0, the state shifts beta between the classes, beta_t = softmax(log beta +
        # (W_s h_t)^T (W_e c_i)), with STATE_DIM numbers in each factor of the product. Trains word by word.
        STATE_DIM=0,
        DIM=1,  # number of outputs of W_c and of W_p; the paper's "1-dimensional vector, i.e. a value"
        # Biases of W_c and W_p, which the equations do not have. POSITIVE_BIAS_INIT needs them.
        BIAS=True,
        # Added to the initial values of those biases; 0.0: torch's own values, with which W_p's single ReLU is 0 on
        # every region of 200 real images for 21 % of 1,000 seeds. With 1.0 it never is (0.5: 1 %). The softmax does not
        # change, since all regions' scores are shifted equally.
        POSITIVE_BIAS_INIT=1.0,
        SPATIAL_INPUT="p",  # the input of the spatial slot: 'p', or 'v' for the raw features V, as in Table 2
        SEMANTIC_INPUT="c",  # the input of the semantic slot: 'c' or 'v'
        ACTIVATION="relu",  # f in a = W_a f(W_h h + W_v v): the paper's ReLU; 'tanh' is X-modaler's
        # A bias of W_v. The equation has none, but the stock decoder has one, and its weights can be loaded here.
        VISUAL_BIAS=True,
        NUM_CLASSES=1601,  # C, background included: Bottom-Up's 1,600 Visual Genome classes + 1
        # Seed of the separate generator for the initial W_c, W_p, W_b, so that all other weights equal the
        # baseline's for the same SEED. Below 0: the run's SEED.
        SEED=-1,
    )


def add_ssattn_config(cfg: Any) -> None:
    """Add all our keys to ``cfg`` (a CfgNode of either host), keeping values already set."""
    add_ss_attention_config(cfg)
    _defaults(
        _node(cfg.LOSSES, "GROUNDING"),
        MU=1.0,  # mu in L = L_ce + mu L_gnd; the paper's 1
        # How L_gnd is reduced over a batch. The paper's L_ce is a sum over a caption's words, the host's is a mean over
        # the batch's words.
        # 'formula': L_gnd summed over the captions and divided by the number of words, the paper's balance of losses.
        # 'image_mean': the mean of L_gnd over the images that have a box, about 13 times the weight (12.9 words per
        # caption). 'positive_mean': the same, after each L_gnd is divided by its number of positive regions.
        REDUCTION="formula",
        # 'image': boxes of all five sentences (beta does not depend on the sentence); 'sentence': its own boxes.
        TARGETS="image",
        # sigma_i: 'binary', the paper's indicator. Beyond the paper: 'count', the number of boxes whose best region is
        # i; 'overlap', 1 if the IoU with some box is above 0.5; 'soft', the largest IoU with any box; 'mentions', the
        # number of phrases whose box region i reaches. REDUCTION 'positive_mean' makes them distributions.
        SIGMA="binary",
        MIN_IOU=0.0,  # a ground-truth box whose best region has a lower IoU than this gives no positive region
    )
    _defaults(
        _node(cfg.LOSSES, "WORD_ATTENTION"),
        # Supervision per word, used with WordAttentionLoss in LOSSES.NAMES: the attention of the step that predicts an
        # object word should be on the word's regions. Weight of the loss; GVD's 0.1. 0: as a run without the loss.
        # PointerLoss (docs/methods.md) uses the same weight and the same pairs.
        WEIGHT=0.1,
        ATTENTION="alpha",  # the supervised attention, or 'gamma' (divided by its sum), which also teaches beta
        # 'threshold': all regions whose IoU with the word's box is above MIN_IOU (GVD). 'best': the one with the
        # largest IoU, if it is above MIN_IOU. 'soft': all regions, with the weights softmax(IoU / TEMPERATURE).
        POSITIVES="threshold",
        MIN_IOU=0.5,  # for 'threshold' and 'best'
        TEMPERATURE=0.5,  # for 'soft'
        REDUCTION="pairs",  # 'pairs': mean over pairs of a word and a region (GVD). 'words': mean over words
        # A file of pairs from another teacher (data/pair_file.py), used instead of the boxes. A name without a folder
        # is a file of ANNO_FOLDER.
        PAIRS="",
    )
    _defaults(
        _node(cfg.LOSSES, "GVD"),
        # GVDClassLoss (docs/methods.md): the weight of L_grd, the attention plus the class head's score; GVD's 0.1.
        GROUNDING_WEIGHT=0.1,
        CLASS_WEIGHT=0.1,  # of L_cls, the class head on the regions of object words
    )
    _defaults(
        _node(cfg.LOSSES, "PROPHET"),
        # After Prophet attention, used with ProphetLoss in LOSSES.NAMES and ProphetCaptioner: weight of the distance
        # between the attention and the one that knows the phrase, summed over the phrases' words and divided by all
        # words. 0 for this weight and for the next one: as a run without the loss.
        WEIGHT=0.1,
        CROSS_ENTROPY_WEIGHT=1.0,  # of the cross-entropy with the attention that knows the phrase
        DISTANCE="l1",  # the paper's, or 'kl'
        STOP_GRADIENT=False,  # True: the distance trains only the decoder's attention. False: both attentions
    )
    _defaults(
        _node(cfg.LOSSES, "CYCLICAL"),
        # Weight of the reconstruction's cross-entropy, used with CyclicalLoss in LOSSES.NAMES and CyclicalCaptioner.
        # 1: as much as the first one, as in the published settings (0.5 and 0.5). 0: as a run without the loss.
        WEIGHT=1.0,
    )
    _defaults(
        _node(cfg.LOSSES, "CONSISTENCY"),
        # Used with ConsistencyLoss in LOSSES.NAMES and DistributedDecoder: weight of the loss by which the branches of
        # attention agree on the object word. 0: as a run without the loss.
        WEIGHT=0.1,
    )
    _defaults(
        cfg.DATALOADER,
        REGIONS="",  # the region store, one HDF5 file (written by `xmodaler prepare regions`)
        # 'none': read rows through the memory map, which all processes of a machine share; 'ram': read the file once at
        # the start; 'device': keep the training images' regions on MODEL.DEVICE, on each GPU a copy of its own, so that
        # a step transfers no features (else 'ram', with a warning).
        CACHE="none",
        # With several processes: False, TRAIN_BATCH_SIZE is the number of images of each, as in X-modaler; True, of all
        # together, so that any number of processes gives the numbers of one (embedded runtime only).
        GLOBAL_BATCH=False,
        SAMPLE_SCENES=0,  # above 0: the data folder contains sample scenes; so many are drawn if it does not exist yet
    )
    _defaults(
        cfg.MODEL,
        # True: training may start from MODEL.WEIGHTS that lack some of the model's weights, such as a stock Up-Down's;
        # those keep their initial values and are logged. False: such a file is refused, as always for evaluation.
        PARTIAL_WEIGHTS=False,
        # sha256 of the word list that the model is trained with, one word per line (modeling/word_list.py), and of the
        # files that its regions come from: the detector's class list and weights. `xmodaler train` writes them into
        # OUTPUT_DIR/config.yaml; another word list is then refused, other regions give a warning. "": unknown.
        VOCABULARY_SHA256="",
        CLASSES_SHA256="",  # of the detector's class list, see VOCABULARY_SHA256
        DETECTOR_SHA256="",  # of the detector's weights, see VOCABULARY_SHA256
        CPU_THREADS=0,  # of torch, set by `xmodaler train`; 0: torch's default
        # True: an image's captions share one dropout mask on its embedded regions, so that W_v V is also computed once
        # per image. False: one mask per caption, as in the stock model.
        SHARE_REGION_DROPOUT=False,
        # CUDA only: products of float32 matrices in TF32 (inputs rounded to 10 bits of mantissa, sums in float32): this
        # is several times faster on cards since 2020 and was torch's own default until 1.11. False: full float32, to
        # compare numbers with a CPU's. It is a setting of the process; SOLVER.AMP does not depend on it.
        TF32=True,
        # CUDA only: record the encoding and the recurrence of a training step as graphs, at most 8 for the
        # different lengths of captions, and replay them. Not yet run on a GPU, therefore off.
        CAPTURE_GRAPHS=False,
    )
    _defaults(
        _node(cfg.MODEL, "DISTRIBUTED"),
        BRANCHES=2,  # of attention of DistributedDecoder; 1 is the plain decoder
    )
    _defaults(
        cfg.SOLVER,
        # bfloat16 products (tensor cores on a GPU, AMX on a CPU); states, softmax and losses stay float32.
        AMP=False,
        CHECKPOINT_STEPS=0,  # checkpoints within an epoch (embedded runtime only), after so many iterations; 0: none
        CHECKPOINT_MINUTES=10.0,  # the same: this number of minutes after the one before; 0: none
        # A score such as "val/CIDEr": keep the weights of the epoch where it is highest (model_best.pth).
        KEEP_BEST="",
        # Checkpoints to keep: the last ones (0: all, as the host does). Older ones are removed during training.
        KEEP_LAST=2,
        KEEP_EVERY=0,  # checkpoints to keep besides: those of every n-th epoch (0: none)
        # When the last checkpoint is damaged, --resume continues from the one before ('previous') or refuses
        # ('refuse').
        DAMAGED_CHECKPOINT="previous",
    )
    _defaults(
        # Self-critical training. The host's NAME, TYPES, WEIGHTS and EOS_ID keep their meaning; GT_PATH '' means the
        # train.json of DATALOADER.ANNO_FOLDER, and CIDER_CACHED must be ''.
        cfg.SCORER,
        # The baseline of a sampled caption: 'greedy', the reward of the image's greedy caption, or 'mean', the mean
        # reward of the image's other sampled captions (without greedy decoding).
        BASELINE="greedy",
        GROUNDING_WEIGHT=0.0,  # of the share of sampled object words whose region hits their object, added to CIDEr-D
        # With SCORER.NAME MatchingScorer (POS-SCAN, docs/methods.md): weight of the matcher's score, -1 to 1.
        MATCHING_WEIGHT=1.0,
        MATCHER="",  # the matcher's file; "": match.pth of ANNO_FOLDER, which `xmodaler prepare match` writes
    )
    _defaults(
        cfg.DECODE_STRATEGY,
        SUPPRESS_UNK=True,  # never generate UNK: the published grounding protocol takes the second best word instead
    )
    _defaults(
        cfg.INFERENCE,
        GROUND_BY="gamma",  # the weights that choose a word's region, those of v-hat; 'alpha' and 'beta': for analysis
        # How these weights choose the region. 'argmax': the published protocol. Beyond it: 'pooled', each region's
        # neighbours vote for it by their IoU; 'class', weight times (probability of the word's class) **
        # REGION_CLASS_POWER; 'union', for DistributedDecoder, the box around the regions of its branches. Controls that
        # read no attention for object words: 'detector', that probability alone, and 'largest_detector', times the
        # region's area.
        REGION_RULE="argmax",
        REGION_CLASS_POWER=0.5,  # for the rule 'class'
        # For the rule 'union', where alpha chooses: the box of a branch is enclosed if its IoU with that of the first
        # branch, or the share of the smaller one inside the other, is above this value. 0.3 to 0.5, chosen on val.
        UNION_OVERLAP=0.3,
        # The names of the class probabilities' columns after the background, one per line; "": those in the region
        # file, else of the vocabulary's folder (drawn or simulated data), else for 1,601 columns the Bottom-Up
        # detector's.
        REGION_CLASSES="",
        # Scores during training; "test/SPICE" requests a metric on one split only.
        METRICS=["Bleu", "ROUGE_L", "CIDEr", "F1"],
        FINAL_METRICS=["METEOR", "SPICE"],  # added after the last epoch and by `xmodaler eval`
        # Folder of pictures named by image id, for the overlays in TensorBoard; "": ANNO_FOLDER/Images if it exists.
        PICTURES="",
        GT_ATTENTION=False,  # also force the reference captions and report the attention accuracy on them
        SAVE_ATTENTION=False,  # write the K boxes, beta, and alpha and gamma of every word into the results file
    )


def completed(cfg: Any) -> Any:
    """A copy of ``cfg`` with all our keys, also in a project whose meta-architecture does not add them."""
    copy = cfg.clone()
    copy.defrost()
    add_ssattn_config(copy)
    return copy
