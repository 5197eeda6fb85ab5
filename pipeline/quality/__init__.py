"""Is this picture good enough? Grades of chest CT series and chest radiographs, before any other result is trusted."""
