//! Which files below a root are manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Directories deeper than this are not looked into; a loop of links ends here.
const MAX_DEPTH: usize = 8;

/// What was found below some roots.
#[derive(Debug, Default)]
pub struct Listing {
    /// Manifest files.
    pub files: BTreeSet<PathBuf>,
    /// Directories of which not everything could be looked at: what is missing in them is not known to be gone.
    pub unreadable: BTreeMap<PathBuf, io::Error>,
}

/// Collects `.yaml`, `.yml` and `.json` files below a directory; a root that is a file counts whatever its name.
pub fn list(root: &Path, listing: &mut Listing) {
    match fs::metadata(root) {
        Ok(meta) if meta.is_file() => drop(listing.files.insert(root.to_owned())),
        Ok(_) => list_directory(root, listing, 0),
        Err(error) => drop(listing.unreadable.insert(root.to_owned(), error)),
    }
}

/// Hidden names are skipped: editors and mounted ConfigMaps (`..data`) keep their own things there; links to them are
/// followed.
fn list_directory(directory: &Path, listing: &mut Listing, depth: usize) {
    let result = fs::read_dir(directory).and_then(|entries| {
        for entry in entries {
            let path = entry?.path();
            if is_hidden(&path) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() && depth < MAX_DEPTH => list_directory(&path, listing, depth + 1),
                Ok(meta) if meta.is_file() && is_manifest(&path) => drop(listing.files.insert(path)),
                Ok(_) => {}
                // A link to nothing, or gone since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        listing.unreadable.insert(directory.to_owned(), error);
    }
}

/// Whether a file or directory is passed over.
pub fn is_hidden(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'))
}

/// Whether a file's name is that of a manifest.
pub fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    matches!(ending, Some("yaml" | "yml" | "json"))
}
