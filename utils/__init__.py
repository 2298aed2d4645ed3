"""What every part of the zoo stands on; imports libraries only, never models, readers or metrics."""
