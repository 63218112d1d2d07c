"""From photographs to region features: the Bottom-Up detectors, with detectron2 and without.

spec                                   what distinguishes the published detectors
preprocess, anchors                    what goes in
suppression, roi_operators, proposals  the operators, exactly as the references compute them
backbone, network                      the detector's network, torch alone
selection, detected                    which regions are kept, and what is said of each
torch_backend, detectron2_backend      the two ways to run it
conditioned                            a random network that proposes and selects, for trying things
safe_pickle, weights, dialects         reading the published weights files; nothing in them is run
loading, classifier                    from a weights file to a detector, or to the classifier alone
pictures, folder, reading              files and folders of pictures
extract, join                          a folder of pictures -> one region file
"""
