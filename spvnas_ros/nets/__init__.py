"""Networks: what they are (`spec`) and what they compute (`unet`)."""
