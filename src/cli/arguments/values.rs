//! How single values are read.

use parse_size::Config;

use crate::sandbox::LEAST_MEMORY;
use crate::vmm::config::MAX_VCPUS;

/// A memory size in docker's words: a number with b, k, m or g, in powers of 1024.
pub fn memory(text: &str) -> Result<u64, String> {
    let bytes = Config::new().with_binary().parse_size(text).map_err(|e| e.to_string())?;
    if bytes < LEAST_MEMORY {
        return Err(format!("the least memory limit is {}m", LEAST_MEMORY >> 20));
    }
    Ok(bytes)
}

/// A size of something else than memory, in the same words.
pub fn size(text: &str) -> Result<u64, String> {
    Config::new().with_binary().parse_size(text).map_err(|error| error.to_string())
}

/// A label: `KEY=VALUE`, or a key whose value is empty.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err("it is to be KEY=VALUE".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A number of CPUs.
pub fn cpus(text: &str) -> Result<f64, String> {
    let cpus: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.01..=f64::from(MAX_VCPUS)).contains(&cpus) {
        return Err(format!("a container has 0.01 to {MAX_VCPUS} CPUs"));
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        assert_eq!(memory("64m"), Ok(64 << 20));
        assert_eq!(memory("1g"), Ok(1 << 30));
        assert_eq!(memory("8388608"), Ok(8 << 20));
        for wrong in ["", "x", "-1", "5m", "1q"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpus_are_bounded() {
        assert_eq!(cpus("1.5"), Ok(1.5));
        for wrong in ["0", "-1", "33", "nan", "inf", "x"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }
}
