"""What a user can ask for: Hydra's overrides, composed and checked against types and bounds."""
