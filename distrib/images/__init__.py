"""What is trained on: sources, order, augmentation and the feed of shares."""
