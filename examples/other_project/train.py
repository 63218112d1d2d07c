"""The launcher of the other project: X-modaler's train_net.py with two more imports, and the captions at the end.

    python make_data.py
    python train.py --config-file birds.yaml [KEY VALUE ...]

``xmodaler_ssattn.host`` has X-modaler's own names; with XMODALER_HOME or inside a clone they are those of the clone,
and ``from xmodaler.config import get_cfg`` and so on works as well.
"""

import argparse

import birds_dataset  # noqa: F401  (registers BirdsDataset)
import torch

import xmodaler_ssattn  # noqa: F401  (registers our classes)
from xmodaler_ssattn.host import add_config, build_engine, default_setup, get_cfg, kfg, launch


def main(args):
    cfg = get_cfg()
    add_config(cfg, cfg.load_from_file_tmp(args.config_file))
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    trainer = build_engine(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    show_captions(trainer.model, trainer.val_data_loader)


def show_captions(model, loader):
    """Print the caption of each image, with the box of each word: x1 y1 x2 y2 in pixels."""
    model.eval()
    for samples in loader:
        with torch.no_grad():
            output = model(model.preprocess_batch(samples), use_beam_search=True, output_sents=True)
        for sample, caption in zip(samples, output[kfg.OUTPUT]):
            print(f"image {sample[kfg.IDS]}: {caption}")
            for word in caption.words:
                print(f"  {word.text:10s} {' '.join(f'{side:.0f}' for side in word.box_px)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("opts", nargs="*", help="KEY VALUE ...")
    parser.set_defaults(eval_only=False)
    args = parser.parse_args()
    launch(main, args.num_gpus, num_machines=1, machine_rank=0, dist_url="tcp://127.0.0.1:29517", args=(args,))
