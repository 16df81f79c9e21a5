//! The state of the manifest files: which objects each holds, which of them are in force, and what changed.
//!
//! A refresh costs what changed: objects are not kept here, only a digest of each, so that equal ones are told from others.
//! What a document said when it last made sense is therefore still in force simply because nothing says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sluicegate_snapshot::{Edit, Kind, Object, ObjectKey};

use super::list::{Listing, list};
use super::read::{self, ObjectDigest, Problem};
use super::watch::Look;

/// Largest manifest file that is read, in bytes.
pub const MAX_FILE: u64 = 64 * 1024 * 1024;

/// A known file that is younger than this, and that nobody said is finished, may still be being written: it is left alone.
const SETTLED: Duration = Duration::from_secs(1);

/// Which object.
pub type Identity = (Kind, ObjectKey);

/// Enough to tell that a file changed without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    changed: (i64, i64),
    length: u64,
    inode: u64,
}

/// An object of a file.
#[derive(Debug, Clone, Copy)]
struct Held {
    digest: ObjectDigest,
    /// Where its document starts.
    line: u64,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    objects: BTreeMap<Identity, Held>,
    problems: Vec<Problem>,
    /// Objects that cannot be read and never could be.
    unread: BTreeSet<Identity>,
}

/// All manifest files below some directories. [`Source::refresh`] compares them with the disk.
#[derive(Debug)]
pub struct Source {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    /// Files that hold an object. The one that sorts last counts, as with `kubectl apply -f`.
    holders: BTreeMap<Identity, BTreeSet<PathBuf>>,
    /// Files with problems, or that are not read.
    troubled: BTreeSet<PathBuf>,
    /// Objects that several files hold.
    shared: BTreeSet<Identity>,
    /// Directories that cannot be read.
    unreadable: Vec<Problem>,
    /// Objects in several files.
    duplicates: Vec<Problem>,
}

/// What a refresh found.
#[derive(Debug, Default)]
pub struct Refresh {
    /// Changes of the objects.
    pub edits: Vec<Edit>,
    /// Whether the list of problems changed.
    pub problems_changed: bool,
    /// What is known about everything else.
    pub certainty: Certainty,
    /// Files were left alone because they may still be being written: look again soon.
    pub unsettled: bool,
}

/// How far the files say everything, so that what they do not say is known to be gone.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Certainty {
    /// Every root could be read.
    pub complete: bool,
    /// Every document that has errors still says which object it is about.
    pub identified: bool,
    /// Objects that cannot be read, and of which no good form is known since the start.
    pub unread: BTreeSet<Identity>,
}

impl Certainty {
    /// Nothing is in doubt.
    pub fn is_clean(&self) -> bool {
        self.complete && self.identified && self.unread.is_empty()
    }

    /// Whether an object that is not there may be there, in a form that cannot be read.
    pub fn doubts(&self, kind: Kind, key: &ObjectKey) -> bool {
        !self.complete || !self.identified || self.unread.contains(&(kind, key.clone()))
    }

    /// Whether any object of a kind may be there, in a form that cannot be read.
    pub fn doubts_any(&self, kind: Kind) -> bool {
        !self.complete || !self.identified || self.unread.iter().any(|(unread, _)| *unread == kind)
    }
}

impl Source {
    /// A source that has read nothing yet.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Source {
            roots,
            files: BTreeMap::new(),
            holders: BTreeMap::new(),
            troubled: BTreeSet::new(),
            shared: BTreeSet::new(),
            unreadable: Vec::new(),
            duplicates: Vec::new(),
        }
    }

    /// The directories and files that are followed.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Everything that is wrong with the files.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.unreadable.iter().chain(&self.duplicates).chain(self.troubled().flat_map(|file| &file.problems))
    }

    /// Where an object stands that counts: its file, and the line of its document.
    pub fn place(&self, kind: Kind, key: &ObjectKey) -> Option<(&Path, u64)> {
        let identity = (kind, key.clone());
        let path = self.holders.get(&identity)?.last()?;
        let held = self.files.get(path)?.objects.get(&identity)?;
        Some((path, held.line))
    }

    fn troubled(&self) -> impl Iterator<Item = &File> {
        self.troubled.iter().filter_map(|path| self.files.get(path))
    }

    /// Reads what changed on disk. Costs the files named in `look` and what they hold, or, where everything is to be looked
    /// at, a listing and the files whose stamp differs.
    ///
    /// A document that cannot be read keeps the object it was before; a file that cannot be read keeps all of its
    /// objects; a directory that cannot be read keeps all of its files. Only what is really gone is removed.
    pub fn refresh(&mut self, look: &Look) -> Refresh {
        let mut pass = Pass::default();
        match look {
            Look::At(paths) if self.unreadable.is_empty() => {
                for path in paths {
                    match fs::metadata(path) {
                        Ok(_) => self.read_file(path, true, &mut pass),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget(path, &mut pass),
                        Err(error) => self.keep(path, &error, &mut pass),
                    }
                }
            }
            _ => self.look_at_everything(look, &mut pass),
        }
        self.edits(pass)
    }

    fn look_at_everything(&mut self, look: &Look, pass: &mut Pass) {
        let mut listing = Listing::default();
        for root in &self.roots {
            list(root, &mut listing);
        }
        let unreadable: Vec<Problem> = listing.unreadable.iter().map(|(path, error)| unreadable(path, error)).collect();
        pass.problems_changed |= unreadable != self.unreadable;
        self.unreadable = unreadable;
        let lost = |path: &Path| listing.unreadable.keys().any(|directory| path.starts_with(directory));
        let gone: Vec<PathBuf> =
            self.files.keys().filter(|path| !listing.files.contains(*path) && !lost(path)).cloned().collect();
        for path in gone {
            self.forget(&path, pass);
        }
        for path in &listing.files {
            self.read_file(path, matches!(look, Look::Asked), pass);
        }
    }

    /// `finished`: whoever writes the file is known to be done.
    fn read_file(&mut self, path: &Path, finished: bool, pass: &mut Pass) {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            // Gone between listing and reading; the next look forgets it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.keep(path, &error, pass),
        };
        let stamp = stamp(&meta);
        let known = self.files.get(path);
        if known.is_some_and(|file| file.stamp.as_ref() == Some(&stamp)) {
            return;
        }
        let age = stamp.modified.and_then(|modified| modified.elapsed().ok());
        if !finished && known.is_some_and(|file| file.stamp.is_some()) && age.is_some_and(|age| age < SETTLED) {
            pass.unsettled = true;
            return;
        }
        if stamp.length > MAX_FILE {
            return self.keep(path, &"it is larger than 64 MiB", pass);
        }
        match fs::read_to_string(path) {
            Ok(text) => self.take(path, stamp, &text, pass),
            Err(error) => self.keep(path, &error, pass),
        }
    }

    fn take(&mut self, path: &Path, stamp: Stamp, text: &str, pass: &mut Pass) {
        let (documents, problems) = read::read(&path.display().to_string(), text);
        let file = self.files.entry(path.to_owned()).or_default();
        // A text that is no YAML has lost its identity with its content, so every object of the file that was not read
        // again may be the one: all of them stay.
        let identity_lost = problems.iter().any(|problem| problem.error && problem.object.is_empty());
        let mut objects = BTreeMap::new();
        let mut read_now = BTreeMap::new();
        let (mut seen, mut unread) = (BTreeSet::new(), BTreeSet::new());
        for document in documents {
            let identity = (document.kind, document.key);
            seen.insert(identity.clone());
            match document.object {
                Some((object, digest)) => {
                    objects.insert(identity.clone(), Held { digest, line: document.line });
                    read_now.insert(identity, object);
                }
                None => match file.objects.get(&identity) {
                    Some(held) => drop(objects.insert(identity, Held { line: document.line, ..*held })),
                    None => drop(unread.insert(identity)),
                },
            }
        }
        if identity_lost {
            let kept = file.objects.iter().filter(|(identity, _)| !seen.contains(*identity));
            objects.extend(kept.map(|(identity, held)| (identity.clone(), *held)));
        }
        pass.problems_changed |= file.problems != problems;
        match problems.is_empty() {
            true => drop(self.troubled.remove(path)),
            false => drop(self.troubled.insert(path.to_owned())),
        }
        let old =
            std::mem::replace(file, File { stamp: Some(stamp), objects: objects.clone(), problems, unread }).objects;
        self.move_objects(path, &old, &objects, pass);
        pass.read.insert(path.to_owned(), read_now);
    }

    /// Keeps all that a file said.
    fn keep(&mut self, path: &Path, error: &dyn std::fmt::Display, pass: &mut Pass) {
        let file = self.files.entry(path.to_owned()).or_default();
        let problems = vec![unreadable(path, error)];
        pass.problems_changed |= file.problems != problems;
        file.stamp = None;
        file.problems = problems;
        self.troubled.insert(path.to_owned());
    }

    fn forget(&mut self, path: &Path, pass: &mut Pass) {
        if let Some(file) = self.files.remove(path) {
            pass.problems_changed |= !file.problems.is_empty();
            self.troubled.remove(path);
            self.move_objects(path, &file.objects, &BTreeMap::new(), pass);
        }
    }

    /// Notes who holds what after a file changed, and which objects have to be looked at.
    fn move_objects(
        &mut self,
        path: &Path,
        old: &BTreeMap<Identity, Held>,
        new: &BTreeMap<Identity, Held>,
        pass: &mut Pass,
    ) {
        let identities: BTreeSet<&Identity> = old.keys().chain(new.keys()).collect();
        let digest =
            |objects: &BTreeMap<Identity, Held>, identity: &Identity| objects.get(identity).map(|held| held.digest);
        for identity in identities.into_iter().filter(|identity| digest(old, identity) != digest(new, identity)) {
            let holders = self.holders.entry(identity.clone()).or_default();
            pass.before.entry(identity.clone()).or_insert_with(|| {
                let holder = holders.last()?;
                let objects = if holder == path { old } else { &self.files.get(holder)?.objects };
                Some((holder.clone(), digest(objects, identity)))
            });
            match new.contains_key(identity) {
                true => drop(holders.insert(path.to_owned())),
                false => drop(holders.remove(path)),
            }
            let count = holders.len();
            if count == 0 {
                self.holders.remove(identity);
            }
            match count {
                0 | 1 => drop(self.shared.remove(identity)),
                _ => drop(self.shared.insert(identity.clone())),
            }
        }
    }

    /// Turns the objects that were touched into edits.
    fn edits(&mut self, mut pass: Pass) -> Refresh {
        let mut edits = Vec::new();
        for (identity, before) in std::mem::take(&mut pass.before) {
            let Some(holder) = self.holders.get(&identity).and_then(|holders| holders.last()).cloned() else {
                if before.is_some() {
                    edits.push(Edit::Remove(identity.0, identity.1));
                }
                continue;
            };
            let held = self.files.get(&holder).and_then(|file| file.objects.get(&identity));
            let digest = held.map(|held| held.digest);
            if before != Some((holder.clone(), digest)) {
                edits.extend(pass.object(&holder, &identity).map(Edit::Put));
            }
        }
        // Removals first: an object may have moved to another name.
        edits.sort_by_key(|edit| matches!(edit, Edit::Put(_)));
        pass.problems_changed |= self.note_duplicates();
        Refresh {
            edits,
            problems_changed: pass.problems_changed,
            certainty: self.certainty(),
            unsettled: pass.unsettled,
        }
    }

    fn certainty(&self) -> Certainty {
        let unread_file = |file: &File| file.stamp.is_none() && file.objects.is_empty();
        let lost = |problem: &Problem| problem.error && problem.object.is_empty();
        Certainty {
            complete: self.unreadable.is_empty() && !self.troubled().any(unread_file),
            identified: !self.troubled().any(|file| file.stamp.is_some() && file.problems.iter().any(lost)),
            unread: self.troubled().flat_map(|file| &file.unread).cloned().collect(),
        }
    }

    /// Says which objects stand in several files. True: that changed.
    fn note_duplicates(&mut self) -> bool {
        let note = |identity: &Identity| {
            let mut holders = self.holders.get(identity)?.iter().rev();
            let (counts, other) = (holders.next()?, holders.next()?);
            let message = format!("also stands in {}; this file sorts last and counts", other.display());
            let object = format!("{} {}", identity.0, identity.1);
            Some(Problem { object, error: false, ..problem(counts, message) })
        };
        let duplicates: Vec<Problem> = self.shared.iter().filter_map(note).collect();
        let changed = duplicates != self.duplicates;
        self.duplicates = duplicates;
        changed
    }
}

/// What one refresh has come across.
#[derive(Default)]
struct Pass {
    /// Objects that were touched: which file and digest counted before.
    before: BTreeMap<Identity, Option<(PathBuf, Option<ObjectDigest>)>>,
    /// Objects of the files that were read.
    read: BTreeMap<PathBuf, BTreeMap<Identity, Object>>,
    problems_changed: bool,
    unsettled: bool,
}

impl Pass {
    /// An object of a file. One that was not read in this pass holds it too, but was outranked until now: it is read again.
    fn object(&mut self, path: &Path, identity: &Identity) -> Option<Object> {
        if !self.read.contains_key(path) {
            let text = fs::read_to_string(path).ok()?;
            let (documents, _) = read::read(&path.display().to_string(), &text);
            let objects = documents.into_iter();
            let objects = objects.filter_map(|document| Some(((document.kind, document.key), document.object?.0)));
            self.read.insert(path.to_owned(), objects.collect());
        }
        self.read.get(path)?.get(identity).cloned()
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Problem {
    problem(path, format!("cannot be read: {error}. What it said before stays in force"))
}

fn problem(path: &Path, message: String) -> Problem {
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
    Stamp {
        modified: meta.modified().ok(),
        // Tools that keep the time of modification cannot keep this one.
        changed: (meta.ctime(), meta.ctime_nsec()),
        length: meta.len(),
        inode: meta.ino(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, port: u16) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
    }

    /// What a refresh changes, as text.
    fn edits(source: &mut Source) -> Vec<String> {
        let text = |edit: &Edit| match edit {
            Edit::Put(object) => format!("put {object:?}"),
            Edit::Remove(kind, key) => format!("remove {kind} {key}"),
            other => format!("{other:?}"),
        };
        source.refresh(&Look::Asked).edits.iter().map(text).collect()
    }

    #[test]
    fn only_what_changed_is_an_edit() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        let mut source = Source::new(vec![directory.path().to_owned()]);
        fs::write(&file, service("one", 80) + &service("two", 80)).unwrap();
        assert_eq!(edits(&mut source), ["put Service default/one", "put Service default/two"]);
        assert!(edits(&mut source).is_empty());
        fs::write(&file, service("one", 80) + &service("two", 81)).unwrap();
        assert_eq!(edits(&mut source), ["put Service default/two"]);
        fs::write(&file, service("two", 81)).unwrap();
        assert_eq!(edits(&mut source), ["remove Service default/one"]);
        fs::remove_file(&file).unwrap();
        assert_eq!(edits(&mut source), ["remove Service default/two"]);
    }

    #[test]
    fn of_two_files_with_an_object_the_last_counts_and_the_other_takes_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut source = Source::new(vec![directory.path().to_owned()]);
        fs::write(path("a.yaml"), service("one", 80)).unwrap();
        fs::write(path("b.yaml"), service("one", 81)).unwrap();
        assert_eq!(edits(&mut source).len(), 1);
        assert_eq!(source.problems().count(), 1);
        fs::write(path("a.yaml"), service("one", 82)).unwrap();
        assert!(edits(&mut source).is_empty(), "outranked");
        fs::remove_file(path("b.yaml")).unwrap();
        assert_eq!(edits(&mut source), ["put Service default/one"]);
        assert_eq!(source.problems().count(), 0);
    }

    #[test]
    fn a_file_that_may_still_be_being_written_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        let mut source = Source::new(vec![directory.path().to_owned()]);
        fs::write(&file, service("one", 80)).unwrap();
        assert_eq!(source.refresh(&Look::Everything).edits.len(), 1, "a new file is read at once");
        fs::write(&file, "").unwrap();
        let refresh = source.refresh(&Look::Everything);
        assert!(refresh.edits.is_empty() && refresh.unsettled, "emptied a moment ago");
        assert_eq!(source.refresh(&Look::At(BTreeSet::from([file]))).edits.len(), 1, "closed by its writer");
    }

    #[test]
    fn a_directory_whose_files_cannot_be_looked_at_keeps_them() {
        let directory = tempfile::tempdir().unwrap();
        let sub = directory.path().join("sub");
        fs::create_dir(&sub).unwrap();
        fs::write(sub.join("a.yaml"), service("one", 80)).unwrap();
        let mut source = Source::new(vec![directory.path().to_owned()]);
        edits(&mut source);
        // A name that is too long for a link's target makes stat fail with something else than "not found".
        fs::remove_file(sub.join("a.yaml")).unwrap();
        std::os::unix::fs::symlink("x".repeat(300), sub.join("a.yaml")).unwrap();
        let refresh = source.refresh(&Look::Asked);
        assert!(refresh.edits.is_empty() && !refresh.certainty.complete);
        assert!(source.problems().next().unwrap().message.contains("stays in force"));
    }
}
