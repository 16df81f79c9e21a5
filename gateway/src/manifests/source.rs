//! The state of the manifest files: what each says now, what it said when it last made sense, and what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sluicegate_snapshot::{Edit, Kind, Object, ObjectKey};

use super::read::{self, Problem};

/// Largest manifest file that is read, in bytes.
pub const MAX_FILE: u64 = 64 * 1024 * 1024;

type Identity = (Kind, ObjectKey);

/// Enough to tell that a file changed without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    objects: BTreeMap<Identity, Object>,
    problems: Vec<Problem>,
}

/// All manifest files below some directories. [`Source::refresh`] compares them with the disk.
#[derive(Debug)]
pub struct Source {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    /// Problems that belong to no file: directories that cannot be read, objects in two files.
    general: Vec<Problem>,
}

/// What a refresh found.
#[derive(Debug, Default)]
pub struct Refresh {
    /// Changes of the objects.
    pub edits: Vec<Edit>,
    /// Whether the list of problems changed.
    pub problems_changed: bool,
    /// Whether every root could be read.
    pub complete: bool,
    /// Whether that is so, and everything in them could be read too.
    pub clean: bool,
}

impl Source {
    /// A source that has read nothing yet.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Source { roots, files: BTreeMap::new(), general: Vec::new() }
    }

    /// The directories and files that are followed.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Everything that is wrong with the files.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.general.iter().chain(self.files.values().flat_map(|file| &file.problems))
    }

    /// Reads what changed on disk. Costs a directory listing, and the files whose stamp differs.
    ///
    /// A document that cannot be read keeps the object it was before; a file that cannot be read keeps all of its
    /// objects; a directory that cannot be read keeps all of its files. Only what is really gone is removed.
    pub fn refresh(&mut self) -> Refresh {
        let before = self.in_force();
        let old_problems: Vec<Problem> = self.problems().cloned().collect();
        self.general.clear();
        let mut found = BTreeSet::new();
        let mut complete = true;
        for root in self.roots.clone() {
            if let Err(error) = list(&root, &mut found, 0) {
                complete = false;
                let known: Vec<PathBuf> = self.files.keys().filter(|path| path.starts_with(&root)).cloned().collect();
                found.extend(known);
                self.general.push(note(&root, format!("cannot be read: {error}. What it said before stays in force")));
            }
        }
        self.files.retain(|path, _| found.contains(path));
        for path in found {
            self.read_file(&path);
        }
        let after = self.in_force();
        self.note_duplicates();
        let edits = difference(&before, &after);
        let problems_changed = !self.problems().eq(&old_problems);
        let clean = complete && !self.problems().any(|problem| problem.error);
        Refresh { edits, problems_changed, complete, clean }
    }

    fn read_file(&mut self, path: &Path) {
        let file = self.files.entry(path.to_owned()).or_default();
        let keep = |file: &mut File, error: &dyn std::fmt::Display| {
            file.stamp = None;
            file.problems = vec![note(path, format!("cannot be read: {error}. What it said before stays in force"))];
        };
        let stamp = match fs::metadata(path) {
            Ok(meta) => stamp(&meta),
            // Gone between listing and reading; the next refresh forgets it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.objects.is_empty() => {
                self.files.remove(path);
                return;
            }
            Err(error) => return keep(file, &error),
        };
        if file.stamp.as_ref() == Some(&stamp) {
            return;
        }
        if stamp.length > MAX_FILE {
            return keep(file, &"it is larger than 64 MiB");
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return keep(file, &error),
        };
        let (documents, problems) = read::read(&path.display().to_string(), &text);
        // A text that is no YAML has lost its identity with its content, so every object of the file that was not read
        // again may be the one: all of them stay.
        let identity_lost = problems.iter().any(|problem| problem.error && problem.object.is_empty());
        let mut objects = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for document in documents {
            let identity = (document.kind, document.key);
            seen.insert(identity.clone());
            match document.object.or_else(|| file.objects.get(&identity).cloned()) {
                Some(object) => drop(objects.insert(identity, object)),
                None => continue,
            }
        }
        if identity_lost {
            let kept = file.objects.iter().filter(|(identity, _)| !seen.contains(identity));
            objects.extend(kept.map(|(identity, object)| (identity.clone(), object.clone())));
        }
        *file = File { stamp: Some(stamp), objects, problems };
    }

    /// The objects in force: of two files with the same object the one that sorts last counts, as with `kubectl apply -f`.
    fn in_force(&self) -> BTreeMap<Identity, Object> {
        self.files
            .values()
            .flat_map(|file| file.objects.iter().map(|(id, object)| (id.clone(), object.clone())))
            .collect()
    }

    fn note_duplicates(&mut self) {
        let mut owner: BTreeMap<&Identity, &PathBuf> = BTreeMap::new();
        let mut notes = Vec::new();
        for (path, file) in &self.files {
            for identity in file.objects.keys() {
                if let Some(first) = owner.insert(identity, path) {
                    let message = format!("also stands in {}; this file sorts last and counts", first.display());
                    let object = format!("{} {}", identity.0, identity.1);
                    notes.push(Problem { object, error: false, ..note(path, message) });
                }
            }
        }
        self.general.extend(notes);
    }
}

fn note(path: &Path, message: String) -> Problem {
    Problem {
        file: path.display().to_string(),
        line: 0,
        object: String::new(),
        field: String::new(),
        message,
        error: true,
    }
}

fn stamp(meta: &fs::Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    Stamp { modified: meta.modified().ok(), length: meta.len(), inode: meta.ino() }
}

/// Collects `.yaml`, `.yml` and `.json` files. Hidden names are skipped: editors and mounted ConfigMaps (`..data`) keep
/// their own things there; links to them are followed.
fn list(root: &Path, found: &mut BTreeSet<PathBuf>, depth: usize) -> io::Result<()> {
    if fs::metadata(root)?.is_file() {
        found.insert(root.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.starts_with('.') {
            continue;
        }
        match fs::metadata(&path) {
            // A loop of links ends at the depth limit.
            Ok(meta) if meta.is_dir() && depth < 8 => list(&path, found, depth + 1)?,
            Ok(meta) if meta.is_file() && is_manifest(&name) => drop(found.insert(path)),
            _ => {}
        }
    }
    Ok(())
}

fn is_manifest(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

fn difference(before: &BTreeMap<Identity, Object>, after: &BTreeMap<Identity, Object>) -> Vec<Edit> {
    let gone = before.keys().filter(|identity| !after.contains_key(identity));
    let removed = gone.map(|(kind, key)| Edit::Remove(*kind, key.clone()));
    let put = after.iter().filter(|(identity, object)| before.get(identity).is_none_or(|old| !same(old, object)));
    removed.chain(put.map(|(_, object)| Edit::Put(object.clone()))).collect()
}

fn same(one: &Object, other: &Object) -> bool {
    match (one, other) {
        (Object::Ingress(a), Object::Ingress(b)) => a == b,
        (Object::IngressClass(a), Object::IngressClass(b)) => a == b,
        (Object::Service(a), Object::Service(b)) => a == b,
        (Object::EndpointSlice(a), Object::EndpointSlice(b)) => a == b,
        (Object::Secret(a), Object::Secret(b)) => a == b,
        (Object::ConfigMap(a), Object::ConfigMap(b)) => a == b,
        _ => false,
    }
}
