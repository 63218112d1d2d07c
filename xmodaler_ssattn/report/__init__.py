"""Pages and figures of captions drawn onto their pictures."""
