"""Training a video diffusion model end to end: pretraining, fine-tuning, preferences, rewards; measured by evalkit."""
