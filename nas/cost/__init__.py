"""What a network costs: `formula` by arithmetic, `measure` by counting on the built network.

params: trainable parameters. macs: multiply-adds of convolutions and linear layers, bias adds not counted (fvcore
calls them flops). activations: output elements of all convolutions, those inside gates and attention included.
All three are exact integers, for one image.

pycls counts the same but for three things: its flops are macs plus one per class, the bias of the classifier, and its
acts are activations plus the outputs of the stem's max pool and of the classifier (ResNet-50 at 224 pixels:
11,315,688 = 11,113,984 + 64 * 56 * 56 + 1,000).

Nothing is imported here: `formula` must not pull in torch.
"""
