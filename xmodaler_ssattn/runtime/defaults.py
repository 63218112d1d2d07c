"""The default config: upstream's keys and values that the runtime reads or that captioning yaml files set."""

from __future__ import annotations

from typing import Any

_EMBED = {"ACTIVATION": "none", "ELU_ALPHA": 0.5, "USE_NORM": False, "DROPOUT": 0.0}
DEFAULTS: dict[str, Any] = {
    "VERSION": 1,
    # Names of registered mappers; an empty name means that there is no such split.
    "DATASETS": {"TRAIN": "", "VAL": "", "TEST": ""},
    "DATALOADER": {
        "TRAIN_BATCH_SIZE": 64,
        "GLOBAL_BATCH": False,  # True: TRAIN_BATCH_SIZE is that of all processes together
        "TEST_BATCH_SIZE": 64,
        "NUM_WORKERS": 4,
        # The rest is read by mappers.
        "FEATS_FOLDER": "",
        "ANNO_FOLDER": "",
        "RELATION_FILE": "",
        "GV_FEAT_FILE": "",
        "ATTRIBUTE_FILE": "",
        "SEQ_PER_SAMPLE": 5,
        "MAX_FEAT_NUM": -1,
    },
    "ENGINE": {"NAME": "DefaultTrainer"},
    # Probability of using the model's own word as input: plus INC_PROB every INC_EVERY_EPOCH epochs, up to MAX_PROB.
    "SCHEDULED_SAMPLING": {"START_EPOCH": 0, "INC_EVERY_EPOCH": 5, "INC_PROB": 0.05, "MAX_PROB": 0.25},
    "MODEL": {
        "DEVICE": "cuda",
        "VOCAB_SIZE": 1000,  # words + 1: index 0 is begin, end and padding
        "META_ARCHITECTURE": "",
        "ENCODER": "",
        "ENCODER_DIM": 1024,
        "DECODER": "",
        "DECODER_DIM": 1024,
        "PREDICTOR": "",
        "PRED_DROPOUT": 0.0,
        "MAX_SEQ_LEN": 17,
        "WEIGHTS": "",
        "USE_EMA": False,  # True is refused: the runtime keeps no averaged weights
        "TOKEN_EMBED": {"NAME": "", "DIM": 1024, **_EMBED, "POSITION": "none", "TYPE_VOCAB_SIZE": 0},
        "VISUAL_EMBED": {"NAME": "", "IN_DIM": 2048, "OUT_DIM": 1024, **_EMBED, "LOCATION_SIZE": 0},
    },
    "SOLVER": {
        "NAME": "Adam",
        "EPOCH": 10,
        "CHECKPOINT_PERIOD": 1,  # epochs
        "CHECKPOINT_STEPS": 0,  # iterations; 0: no checkpoints within epochs by number
        "CHECKPOINT_MINUTES": 0.0,  # 0: no checkpoints within epochs by time
        "EVAL_PERIOD": 1,  # epochs; 0: after the last epoch only
        "WRITE_PERIOD": 20,  # iterations
        "BASE_LR": 0.0005,
        "BIAS_LR_FACTOR": 1.0,
        "WEIGHT_DECAY": 0.0,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": 0.0,
        "MOMENTUM": 0.9,
        "DAMPENING": 0.0,
        "NESTEROV": 0.0,
        "BETAS": [0.9, 0.999],
        "EPS": 1e-8,
        "AMSGRAD": False,
        "GRAD_CLIP_TYPE": "norm",  # "norm" over all tensors together, "value" for each number
        "GRAD_CLIP": 0.1,  # 0 or less: no clipping
        "NORM_TYPE": 2.0,
    },
    "LR_SCHEDULER": {"NAME": "StepLR", "STEP_SIZE": 3, "GAMMA": 0.1},
    "LOSSES": {"NAMES": [""], "LABELSMOOTHING": 0.1},
    # The reward in reinforcement learning, read by the scorer that NAME names; the runtime has none of its own.
    "SCORER": {
        "NAME": "",
        "TYPES": [""],
        "WEIGHTS": [1.0],
        "GT_PATH": "coco_train_gts.pkl",
        "CIDER_CACHED": "coco_train_cider.pkl",
        "EOS_ID": 0,
    },
    "DECODE_STRATEGY": {"NAME": "BeamSearcher", "BEAM_SIZE": 1},
    "INFERENCE": {
        "NAME": "",
        "VOCAB": "coco_vocabulary.txt",
        "ID_KEY": "image_id",
        "VALUE": "caption",
        "VAL_ANNFILE": "captions_val5k.json",
        "TEST_ANNFILE": "captions_test5k.json",
        "GENERATION_MODE": True,
        "VAL_EVAL_START": -1,  # evaluate after epochs greater than this
        "TEST_EVAL_START": -1,
    },
    "OUTPUT_DIR": "./output",
    "SEED": -1,  # below 0: a new seed for each run
    "CUDNN_BENCHMARK": True,
}
