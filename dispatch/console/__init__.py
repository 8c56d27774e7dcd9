"""What the server has for browsers: static pages and scripts, as they are, without a build step."""
