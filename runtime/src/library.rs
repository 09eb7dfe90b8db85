//! A shared object in memory: by the system's loader, or in statically linked programs, which have none, by [`crate::image`].

use std::path::Path;

use crate::model::LoadError;

/// Symbols of a loaded file, until it is dropped.
pub(crate) struct Library {
    #[cfg(not(all(target_env = "musl", target_feature = "crt-static")))]
    inner: libloading::Library,
    #[cfg(all(target_env = "musl", target_feature = "crt-static"))]
    inner: crate::image::Image,
}

#[cfg(not(all(target_env = "musl", target_feature = "crt-static")))]
impl Library {
    /// Loads a file.
    ///
    /// # Safety
    /// What it runs when it is loaded may run in this process, and nobody writes to the file.
    pub(crate) unsafe fn open(path: &Path) -> Result<Library, LoadError> {
        // An absolute path also keeps the system's loader from searching its own folders.
        let absolute = path.canonicalize().map_err(|source| LoadError::Open { path: path.into(), source })?;
        // SAFETY: as above.
        let inner = unsafe { libloading::Library::new(absolute) };
        Ok(Library { inner: inner.map_err(|source| LoadError::Load { path: path.into(), source })? })
    }

    /// The address of a symbol.
    pub(crate) fn symbol(&self, name: &str) -> Option<*const u8> {
        // SAFETY: a symbol of any kind may be taken for its address.
        unsafe { self.inner.get::<*const u8>(name) }.ok().map(|address| *address)
    }
}

#[cfg(all(target_env = "musl", target_feature = "crt-static"))]
impl Library {
    /// Maps a file.
    ///
    /// # Safety
    /// Nobody writes to the file.
    pub(crate) unsafe fn open(path: &Path) -> Result<Library, LoadError> {
        let content = std::fs::read(path).map_err(|source| LoadError::Open { path: path.into(), source })?;
        let inner = crate::image::Image::map(path, &content);
        Ok(Library { inner: inner.map_err(|why| LoadError::Image { path: path.into(), why })? })
    }

    /// The address of a symbol.
    pub(crate) fn symbol(&self, name: &str) -> Option<*const u8> {
        self.inner.symbol(name)
    }
}
