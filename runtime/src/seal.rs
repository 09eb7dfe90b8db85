//! The last bytes of a compiled file: for which ABI and machine it is, how long it is, and the digest of all that is before.
//!
//! ```text
//! 8  QCCSEAL1      4  ABI version      4  machine, as ELF numbers them      8  bytes of the file before the seal      32  SHA-256 of these
//! ```
//! Numbers are little-endian. The seal is behind what an ELF file has and is never mapped. It shows damage and mix-ups; it is no signature, since
//! whoever changes a file can seal it anew.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::abi::ABI_VERSION;

/// First bytes of a seal, with its version.
const MAGIC: [u8; 8] = *b"QCCSEAL1";

/// Bytes of a seal.
const BYTES: usize = 56;

/// What a seal says of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Version of the ABI that the model has.
    pub abi_version: u32,
    /// `e_machine` of the ELF header.
    pub machine: u32,
    /// SHA-256 of the file without the seal.
    pub digest: [u8; 32],
}

/// Why a file is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no seal: the file is cut short, was stripped, or is none of qcc's.
    #[error("it ends without the seal of a model compiled by qcc: it is cut short, or comes from elsewhere")]
    Missing,
    /// Another length than was written.
    #[error("it has {found} bytes and was written with {written}")]
    Length {
        /// Bytes before the seal.
        found: u64,
        /// Bytes that the seal names.
        written: u64,
    },
    /// Another content than was written.
    #[error("its content is not what was written: the file is damaged")]
    Content,
    /// An ABI that this runtime does not know.
    #[error("it has ABI {found}, and this runtime knows {ABI_VERSION}")]
    Abi {
        /// Version in the seal.
        found: u32,
    },
}

/// Why a sealed file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] io::Error),
    /// It is not what was written.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// The machine of an ELF file; `None` of others.
fn machine(file: &[u8]) -> Option<u32> {
    let header = file.get(..20).filter(|h| h.starts_with(b"\x7fELF"))?;
    Some(u32::from(u16::from_le_bytes([header[18], header[19]])))
}

impl Seal {
    /// Appends the seal of a file to it.
    pub fn append(file: &mut Vec<u8>) {
        let digest = Sha256::digest(&*file);
        let (machine, length) = (machine(file).unwrap_or(0), file.len() as u64);
        file.extend(MAGIC);
        file.extend(ABI_VERSION.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(digest);
    }

    /// Reads a file that ends with a seal, and compares it with that. Of a file that ends with none no more is read than its end.
    pub fn read(path: &Path) -> Result<(Vec<u8>, Seal), ReadError> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file").into());
        }
        let length = metadata.len();
        let start = length.checked_sub(BYTES as u64).ok_or(SealError::Missing)?;
        let mut seal = [0; BYTES];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut seal)?;
        if !seal.starts_with(&MAGIC) {
            return Err(SealError::Missing.into());
        }
        let mut bytes = Vec::new();
        let room = usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        bytes.try_reserve_exact(room).map_err(io::Error::from)?;
        file.rewind()?;
        file.take(length).read_to_end(&mut bytes)?;
        let seal = Seal::check(&bytes)?;
        Ok((bytes, seal))
    }

    /// Reads the seal of a file and compares the file with it.
    pub fn check(file: &[u8]) -> Result<Seal, SealError> {
        let (content, seal) = file.split_last_chunk::<BYTES>().ok_or(SealError::Missing)?;
        let (magic, rest) = seal.split_first_chunk::<8>().ok_or(SealError::Missing)?;
        let (abi, rest) = rest.split_first_chunk::<4>().ok_or(SealError::Missing)?;
        let (own_machine, rest) = rest.split_first_chunk::<4>().ok_or(SealError::Missing)?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or(SealError::Missing)?;
        let digest = *rest.first_chunk::<32>().ok_or(SealError::Missing)?;
        if *magic != MAGIC {
            return Err(SealError::Missing);
        }
        let (found, written) = (content.len() as u64, u64::from_le_bytes(*length));
        if found != written {
            return Err(SealError::Length { found, written });
        }
        let abi_version = u32::from_le_bytes(*abi);
        let own_machine = u32::from_le_bytes(*own_machine);
        if Sha256::digest(content)[..] != digest || machine(content) != Some(own_machine) {
            return Err(SealError::Content);
        }
        if abi_version != ABI_VERSION {
            return Err(SealError::Abi { found: abi_version });
        }
        Ok(Seal { abi_version, machine: own_machine, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        let mut file: Vec<u8> = (0..=255).cycle().take(4000).collect();
        file[..4].copy_from_slice(b"\x7fELF");
        (file[18], file[19]) = (62, 0);
        Seal::append(&mut file);
        file
    }

    #[test]
    fn what_was_written_passes() {
        let seal = Seal::check(&sealed()).unwrap();
        assert_eq!((seal.abi_version, seal.machine), (ABI_VERSION, 62));
    }

    #[test]
    fn every_changed_byte_and_length_is_seen() {
        let file = sealed();
        for at in (0..file.len()).step_by(37).chain(file.len() - BYTES..file.len()) {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(Seal::check(&damaged).is_err(), "byte {at}");
        }
        for length in [0, 1, BYTES, file.len() - 1] {
            assert!(Seal::check(&file[..length]).is_err(), "{length} bytes");
        }
        let mut longer = file.clone();
        longer.push(0);
        assert_eq!(Seal::check(&longer), Err(SealError::Missing));
        let mut without_middle = file.clone();
        without_middle.drain(1000..1001);
        assert!(matches!(Seal::check(&without_middle), Err(SealError::Length { .. })));
    }
}
