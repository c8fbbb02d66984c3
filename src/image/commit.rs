//! Makes an image of another and of one layer more.

use std::fs;
use std::io::Read;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::archive::{Archive, ImageSource, LayerSource};
use super::changes::Change;
use super::digest::Digest;
use super::import::LAYER;
use super::limits::Budget;
use super::reference::Reference;
use super::store::{
    Image, Layers, LoadError, Progress, Staging, Store, StoreError, StoredLayer, make_manifest,
    plan,
};

/// What is said of the image beside its layer.
#[derive(Debug, Default)]
pub struct Description {
    /// its name
    pub name: Option<Reference>,
    /// who made it
    pub author: Option<String>,
    /// what its history says
    pub message: Option<String>,
    /// the command that has made the layer
    pub command: String,
    /// changes of its configuration, as a Dockerfile's
    pub changes: Vec<Change>,
    /// when it was made
    pub created: Timestamp,
}

impl Store {
    /// Makes an image of the layers of `base` and of the one that `reader` gives.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoLayers`] if those of `base` are not there; if the layer is none, or the store cannot be
    /// written.
    pub fn commit(
        &self,
        base: &Image,
        reader: impl Read,
        description: &Description,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Digest, LoadError> {
        self.commit_onto(base, reader, description, progress)
            .map_err(|error| self.name_if_full(error))
    }

    fn commit_onto(
        &self,
        base: &Image,
        reader: impl Read,
        description: &Description,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Digest, LoadError> {
        let staging = self.stage()?;
        let no_layers = || StoreError::NoLayers(base.id);
        let mut layers = base.layers()?.ok_or_else(no_layers)?;
        // Held until they are the new image's, too.
        let held = self.hold_layers(&layers)?.ok_or_else(no_layers)?;
        for layer in &layers {
            self.bring(layer, &staging)?;
        }
        let top = self.spool(reader, &staging, progress)?;
        let named = |layer: &StoredLayer, name| LayerSource {
            name,
            digest: Some(layer.digest),
            size: Some(layer.size),
        };
        let mut sources: Vec<_> =
            layers.iter().map(|layer| named(layer, layer.digest.hex())).collect();
        sources.push(named(&top, LAYER.to_owned()));
        let config = config(base, &top, description)?;
        layers.push(top);
        let planned = [plan(ImageSource {
            names: description.name.iter().map(ToString::to_string).collect(),
            manifest: Some(make_manifest(&config, &layers)),
            config,
            layers: sources,
        })?];
        self.accept(&planned)?;
        let archive = Archive::open_directory(staging.path())?;
        let budget = Budget::new(self.limits().clone(), staging.path());
        self.take(&archive, Layers::Elsewhere, &planned, &staging, budget, progress)?;
        drop(held);
        Ok(planned[0].id)
    }

    /// Gives a layer of the store a name among those that an image is made of.
    fn bring(&self, layer: &StoredLayer, staging: &Staging) -> Result<(), StoreError> {
        let (from, to) = (self.blob_path(layer.digest), staging.path().join(layer.digest.hex()));
        match fs::hard_link(&from, &to) {
            // An image may have the same layer twice.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.map_err(StoreError::io("linking", &from)),
        }
    }
}

fn config(
    base: &Image,
    top: &StoredLayer,
    description: &Description,
) -> Result<Vec<u8>, LoadError> {
    let invalid = |source| LoadError::Config { id: base.id, source };
    let mut document: Value = serde_json::from_slice(base.config_bytes()).map_err(invalid)?;
    let created = description.created.to_string();
    let mut history = json!({"created": created, "created_by": description.command});
    if let Some(author) = &description.author {
        history["author"] = json!(author);
        document["author"] = json!(author);
    }
    if let Some(message) = &description.message {
        history["comment"] = json!(message);
    }
    document["created"] = json!(created);
    if !document["config"].is_object() {
        document["config"] = json!({});
    }
    for change in &description.changes {
        change.apply(&mut document["config"]);
    }
    push(&mut document["rootfs"]["diff_ids"], json!(top.diff_id));
    push(&mut document["history"], history);
    Ok(document.to_string().into_bytes())
}

fn push(list: &mut Value, value: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(value),
        None => *list = json!([value]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::{Item, archive, read_image};

    fn description() -> Description {
        Description {
            name: Some("mine:1".parse().unwrap()),
            author: Some("me".into()),
            message: Some("why".into()),
            command: "sh -c x".into(),
            changes: vec!["CMD [\"/b\"]".parse().unwrap(), "ENV A=2".parse().unwrap()],
            created: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_layer_on_an_image_is_an_image() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let import = crate::image::import::Description {
            name: Some("base".parse().unwrap()),
            changes: vec!["ENV A=1 B=1".parse().unwrap(), "USER u".parse().unwrap()],
            ..Default::default()
        };
        let bottom = archive(vec![Item::file("kept", "k"), Item::file("gone", "g")]);
        store.import(bottom.as_slice(), &import, &mut |_| ()).unwrap();
        let base = store.get("base").unwrap();
        let layer = archive(vec![Item::file("new", "n"), Item::file(".wh.gone", "")]);
        let id = store.commit(&base, layer.as_slice(), &description(), &mut |_| ()).unwrap();
        let image = store.get("mine:1").unwrap();
        assert_eq!(image.id, id);
        let files = read_image(&fs::read(&image.rootfs).unwrap());
        let files = format!("{files:?}");
        assert!(
            files.contains("kept") && files.contains("new") && !files.contains("gone"),
            "{files}"
        );
        let config: Value = serde_json::from_slice(image.config_bytes()).unwrap();
        assert_eq!(config["config"]["Env"], json!(["B=1", "A=2"]));
        assert_eq!((&config["config"]["User"], &config["author"]), (&json!("u"), &json!("me")));
        assert_eq!(config["history"][1]["comment"], "why");
        assert_eq!(image.layers().unwrap().unwrap().len(), 2);
        // It can be given on, and lasts without the image that it was made of.
        let mut saved = Vec::new();
        store.save(&["mine:1".to_owned()], &mut saved).unwrap();
        drop((base, image));
        store.remove("base", false).unwrap();
        store.save(&["mine:1".to_owned()], &mut std::io::sink()).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("staging")).unwrap().count(), 0);
    }
}
