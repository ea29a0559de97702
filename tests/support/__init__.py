"""What tests share: tiny models, processes that form a group, published layouts in miniature."""
