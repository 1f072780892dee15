//! The volumes of a described pod.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume, VolumeProjection};

use super::page::{Page, text};

pub(super) fn describe(page: &mut Page, volumes: &[Volume]) {
    if volumes.is_empty() {
        return page.line(0, "Volumes:\t<none>");
    }
    page.line(0, "Volumes:");
    for volume in volumes {
        page.line(1, &format!("{}:", volume.name));
        let mut say = |line: String| page.line(2, &line);
        if let Some(source) = &volume.host_path {
            say("Type:\tHostPath (bare host directory volume)".to_owned());
            say(format!("Path:\t{}", source.path));
            say(format!("HostPathType:\t{}", text(&source.type_)));
        } else if let Some(source) = &volume.empty_dir {
            say("Type:\tEmptyDir (a temporary directory that shares a pod's lifetime)".to_owned());
            say(format!("Medium:\t{}", text(&source.medium)));
            let limit = source.size_limit.as_ref().map_or("<unset>", |limit| &limit.0);
            say(format!("SizeLimit:\t{limit}"));
        } else if let Some(source) = &volume.secret {
            say("Type:\tSecret (a volume populated by a Secret)".to_owned());
            say(format!("SecretName:\t{}", text(&source.secret_name)));
            say(format!("Optional:\t{}", source.optional.unwrap_or_default()));
        } else if let Some(source) = &volume.config_map {
            say("Type:\tConfigMap (a volume populated by a ConfigMap)".to_owned());
            say(format!("Name:\t{}", source.name));
            say(format!("Optional:\t{}", source.optional.unwrap_or_default()));
        } else if let Some(source) = &volume.downward_api {
            say("Type:\tDownwardAPI (a volume populated by information about the pod)".to_owned());
            say("Items:".to_owned());
            for item in source.items.iter().flatten() {
                page.line(3, &downward_item(item));
            }
        } else if let Some(source) = &volume.projected {
            say("Type:\tProjected (a volume that contains injected data from multiple sources)"
                .to_owned());
            for source in source.sources.iter().flatten() {
                projection(page, source);
            }
        } else {
            say("<unknown>".to_owned());
        }
    }
}

fn downward_item(item: &DownwardAPIVolumeFile) -> String {
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), _) => format!("{} -> {}", field.field_path, item.path),
        (None, Some(field)) => format!("{} -> {}", field.resource, item.path),
        (None, None) => item.path.clone(),
    }
}

fn projection(page: &mut Page, source: &VolumeProjection) {
    if let Some(secret) = &source.secret {
        page.line(2, &format!("SecretName:\t{}", secret.name));
        page.line(2, &format!("Optional:\t{}", secret.optional.unwrap_or_default()));
    } else if source.downward_api.is_some() {
        page.line(2, "DownwardAPI:\ttrue");
    } else if let Some(map) = &source.config_map {
        page.line(2, &format!("ConfigMapName:\t{}", map.name));
        page.line(2, &format!("Optional:\t{}", map.optional.unwrap_or_default()));
    }
}
