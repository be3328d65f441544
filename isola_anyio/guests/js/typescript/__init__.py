"""TypeScript to JavaScript, with lines kept."""
