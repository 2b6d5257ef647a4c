"""SavedModels for servers: signatures, image files, model card, warm-up requests."""
