module mesh.invalid/kind-tests/pause

go 1.24.0
