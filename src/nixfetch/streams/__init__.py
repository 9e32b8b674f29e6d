"""What happens to bytes on their way: decoded, limited, scanned. Knows no files and no Nix."""
