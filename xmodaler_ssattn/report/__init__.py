"""What people look at: captions drawn onto their pictures."""
