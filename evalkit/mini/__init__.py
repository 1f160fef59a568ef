"""Small networks trained on the made-up world and shipped with evalkit: the oracle, a CLIP, a video network."""
