"""From photographs to region features: the Bottom-Up detectors, with detectron2 and without, and those of transformers.

spec                                   what distinguishes the published detectors
preprocess                             the network's input
suppression, roi_operators, proposals  the operators, exactly as the references compute them
backbone, network                      the network, in torch only
selection, detected                    selection of the regions, and their data
torch_backend, detectron2_backend      running a network of ours, or detectron2's
dialects, loading                      from a published weights file to a detector, or to its classifier
transformers_backend                   a local folder of Hugging Face transformers: DETR, RT-DETR, RF-DETR, YOLOS, ...
pictures                               one picture file -> pixels
sources, folder, parquet               folders, archives and tables of pictures, and their image ids
extract, join                          pictures -> one region file
"""
