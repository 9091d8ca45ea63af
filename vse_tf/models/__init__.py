"""Image tower, text tower, projection heads and the dual encoder that holds both.

Also what belongs to them: pretrained backbones, cached features of frozen ones, the learned temperature.
"""
