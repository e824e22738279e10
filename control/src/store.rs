//! Where the desired state survives a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control_api::v1::{Object, ObjectKey};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

/// Keeps the desired state. Every method may block on the disk.
pub trait Store: Send {
    /// Reads everything.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or what it holds is none of ours.
    fn load(&mut self) -> Result<Stored, StoreError>;

    /// Writes one transaction: after a success it survives a crash or power loss; after a failure or crash it is there as a whole or not at
    /// all.
    ///
    /// # Errors
    ///
    /// It may not be stored.
    fn commit(&mut self, batch: &Batch<'_>) -> Result<(), StoreError>;
}

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// Of the last transaction; 0 where there was none.
    pub generation: u64,
    /// In no particular order.
    pub objects: Vec<Object>,
}

/// One transaction.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The generation that it makes.
    pub generation: u64,
    /// Created or changed objects.
    pub upserts: &'a [Arc<Object>],
    /// Removed ones.
    pub deletes: &'a [ObjectKey],
}

/// Why a store does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("{} is in use by another process: stop that one, or give this one another --store", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened or created.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The file is no store, or damaged.
    #[error("{} is damaged or no store of Oncilla ({reason}): restore it from a backup, or move it away to start empty", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The disk failed or is full.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
}

/// Keeps nothing: every restart begins empty.
#[derive(Debug, Default)]
pub struct MemoryStore {
    generation: u64,
    objects: BTreeMap<String, Object>,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Stored, StoreError> {
        Ok(Stored {
            generation: self.generation,
            objects: self.objects.values().cloned().collect(),
        })
    }

    fn commit(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        for key in batch.deletes {
            self.objects.remove(&key.to_string());
        }
        for object in batch.upserts {
            self.objects
                .insert(object.key().to_string(), Object::clone(object));
        }
        self.generation = batch.generation;
        Ok(())
    }
}

/// `Kind/name` -> the object, in protobuf.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");

/// [`FORMAT`] and [`GENERATION`].
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FORMAT: &str = "format";
const GENERATION: &str = "generation";

/// The layout that this version reads and writes.
const FORMAT_VERSION: u64 = 1;

/// One file, written copy-on-write and synced at every transaction (redb).
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    database: Database,
}

impl FileStore {
    /// Opens a store, or creates it with its directory.
    ///
    /// # Errors
    ///
    /// Another process has it, it is damaged, or the file system refuses.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(parent).map_err(|source| StoreError::Open {
                path: path.clone(),
                source: Box::new(redb::Error::Io(source)),
            })?;
        }
        // A damaged file is bad input; a library's panic on it is an answer too.
        let opened = std::panic::catch_unwind(|| Database::create(&path));
        let database = match opened {
            Ok(Ok(database)) => database,
            Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) => {
                return Err(StoreError::InUse { path });
            }
            Ok(Err(error)) => return Err(classify(&path, error.into())),
            Err(_) => {
                return Err(StoreError::Corrupt {
                    path,
                    reason: "its structure makes no sense".into(),
                });
            }
        };
        let mut store = Self { path, database };
        store.check_format()?;
        Ok(store)
    }

    fn check_format(&mut self) -> Result<(), StoreError> {
        let found = (|| -> Result<Option<u64>, redb::Error> {
            let transaction = self.database.begin_write()?;
            let found = {
                let mut meta = transaction.open_table(META)?;
                transaction.open_table(OBJECTS)?;
                let found = meta.get(FORMAT)?.map(|version| version.value());
                if found.is_none() {
                    meta.insert(FORMAT, FORMAT_VERSION)?;
                }
                found
            };
            transaction.commit()?;
            Ok(found)
        })()
        .map_err(|error| classify(&self.path, error))?;
        match found {
            None | Some(FORMAT_VERSION) => Ok(()),
            Some(other) => Err(self.corrupt(format!(
                "its format is {other}, this version knows {FORMAT_VERSION}"
            ))),
        }
    }

    fn corrupt(&self, reason: String) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            reason,
        }
    }
}

impl Store for FileStore {
    fn load(&mut self) -> Result<Stored, StoreError> {
        type Raw = (u64, Vec<(String, Vec<u8>)>);
        let (generation, raw) = (|| -> Result<Raw, redb::Error> {
            let transaction = self.database.begin_read()?;
            let generation = transaction
                .open_table(META)?
                .get(GENERATION)?
                .map_or(0, |value| value.value());
            let mut raw = Vec::new();
            for entry in transaction.open_table(OBJECTS)?.iter()? {
                let (key, value) = entry?;
                raw.push((key.value().to_owned(), value.value().to_owned()));
            }
            Ok((generation, raw))
        })()
        .map_err(|error| classify(&self.path, error))?;
        let mut objects = Vec::with_capacity(raw.len());
        for (key, bytes) in raw {
            let object = Object::decode(bytes.as_slice())
                .map_err(|error| self.corrupt(format!("{key} cannot be decoded: {error}")))?;
            if object.key().to_string() != key {
                return Err(self.corrupt(format!("{key} holds {}", object.key())));
            }
            objects.push(object);
        }
        Ok(Stored {
            generation,
            objects,
        })
    }

    fn commit(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        (|| -> Result<(), redb::Error> {
            // Durability::Immediate is the default: commit returns after the file is synced.
            let transaction = self.database.begin_write()?;
            {
                let mut objects = transaction.open_table(OBJECTS)?;
                for key in batch.deletes {
                    objects.remove(key.to_string().as_str())?;
                }
                for object in batch.upserts {
                    let bytes = object.encode_to_vec();
                    objects.insert(object.key().to_string().as_str(), bytes.as_slice())?;
                }
                transaction
                    .open_table(META)?
                    .insert(GENERATION, batch.generation)?;
            }
            transaction.commit()?;
            Ok(())
        })()
        .map_err(|source| StoreError::Write {
            path: self.path.clone(),
            source: Box::new(source),
        })
    }
}

fn classify(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match &error {
        redb::Error::Io(io) if io.kind() != std::io::ErrorKind::InvalidData => StoreError::Open {
            path,
            source: Box::new(error),
        },
        _ => StoreError::Corrupt {
            path,
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::v1::{AddressSpec, object::Spec};

    fn object(name: &str) -> Arc<Object> {
        let spec = AddressSpec {
            interface: "lan".into(),
            address: "10.0.0.1/24".into(),
        };
        Arc::new(Object::new(name, Spec::Address(spec)))
    }

    fn batch<'a>(
        generation: u64,
        upserts: &'a [Arc<Object>],
        deletes: &'a [ObjectKey],
    ) -> Batch<'a> {
        Batch {
            generation,
            upserts,
            deletes,
        }
    }

    #[test]
    fn both_stores_keep_the_same() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("deep/store.redb");
        let mut file = FileStore::open(&path).expect("opens");
        let mut memory = MemoryStore::default();
        let stores: [&mut dyn Store; 2] = [&mut file, &mut memory];
        for store in stores {
            assert_eq!(store.load().expect("loads"), Stored::default());
            store
                .commit(&batch(1, &[object("a"), object("b")], &[]))
                .expect("commits");
            store
                .commit(&batch(2, &[object("c")], &[object("a").key()]))
                .expect("commits");
            let stored = store.load().expect("loads");
            assert_eq!(stored.generation, 2);
            let names: Vec<_> = stored.objects.iter().map(Object::name).collect();
            assert_eq!(names, ["b", "c"]);
        }
        drop(file);
        let stored = FileStore::open(&path)
            .expect("reopens")
            .load()
            .expect("loads");
        assert_eq!(stored, memory.load().expect("loads"));
    }

    #[test]
    fn one_process_has_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("store.redb");
        let _first = FileStore::open(&path).expect("opens");
        assert!(matches!(
            FileStore::open(&path),
            Err(StoreError::InUse { .. })
        ));
    }

    #[test]
    fn what_is_no_store_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("store.redb");
        let text = b"apiVersion: oncilla.io/v1\n".repeat(1000);
        std::fs::write(&path, &text).expect("writes");
        let error = FileStore::open(&path).expect_err("is no store");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("store.redb is damaged or no store"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).expect("reads"), text);
    }

    #[test]
    fn a_foreign_value_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("store.redb");
        let mut store = FileStore::open(&path).expect("opens");
        let transaction = store.database.begin_write().expect("begins");
        {
            let mut objects = transaction.open_table(OBJECTS).expect("opens");
            objects
                .insert("Route/x", [0xffu8; 3].as_slice())
                .expect("inserts");
        }
        transaction.commit().expect("commits");
        let error = store.load().expect_err("is damaged").to_string();
        assert!(error.contains("Route/x cannot be decoded"), "{error}");
    }
}
