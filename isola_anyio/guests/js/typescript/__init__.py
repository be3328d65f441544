"""TypeScript: its detection, its stripping to JavaScript, and the lines that the result keeps."""
