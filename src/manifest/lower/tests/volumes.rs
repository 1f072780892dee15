//! Volumes and where they are mounted.

use super::*;

#[test]
fn rules_of_volumes_and_mounts() {
    let volume = |fields: &str| format!("{C}, volumes: [{{name: v, {fields}}}]");
    check_spec(&[
        (
            &volume("emptyDir: {}, hostPath: {path: /x}"),
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            &volume("hostPath: {path: /a/../b, type: Dir}"),
            &[
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.volumes[0].hostPath.type: Unsupported value: \"Dir\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \
                 \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
        ),
        (&volume("hostPath: {}"), &["spec.volumes[0].hostPath.path: Required value"]),
        (
            &volume("configMap: {defaultMode: 01000, items: [{key: k, path: ../x}, {}]}"),
            &[
                "spec.volumes[0].configMap.name: Required value",
                "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
                "spec.volumes[0].configMap.items[1].key: Required value",
                "spec.volumes[0].configMap.items[1].path: Required value",
                "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ],
        ),
        (
            &volume(
                "downwardAPI: {items: [{path: a}, {path: /b, fieldRef: {fieldPath: status.podIP}}, \
                     {path: c, resourceFieldRef: {resource: limits.cpu}}]}",
            ),
            &[
                "spec.volumes[0].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required",
                "spec.volumes[0].downwardAPI.items[1].path: Invalid value: \"/b\": must be a relative path",
                "spec.volumes[0].downwardAPI.items[1].fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \
                 \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
                "spec.volumes[0].downwardAPI.items[2].resourceFieldRef.containerName: Required value",
            ],
        ),
        (
            &volume(
                "projected: {sources: [{secret: {name: a, items: [{key: k, path: p}]}}, \
                     {configMap: {name: b, items: [{key: k, path: p}]}}]}",
            ),
            &["spec.volumes[0].projected: Invalid value: \"p\": conflicting duplicate paths"],
        ),
        (
            &volume("persistentVolumeClaim: {claimName: c}"),
            &[
                "spec.volumes[0].persistentVolumeClaim: Forbidden: volumes of this type are not offered here; emptyDir, hostPath, configMap, \
               secret, downwardAPI and projected are",
            ],
        ),
        (
            &volume("emptyDir: {medium: HugePages, sizeLimit: -1}"),
            &[
                "spec.volumes[0].emptyDir.medium: Invalid value: \"HugePages\": must be empty or \"Memory\": modules have no huge pages",
                "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
            ],
        ),
    ]);
    check_container(&[
        (
            "volumeMounts: [{name: w, mountPath: /a}, {name: w, mountPath: 'a/'}, {mountPath: 'c:d'}, {name: w}]",
            &[
                "volumeMounts[0].name: Not found: \"w\"",
                "volumeMounts[1].name: Not found: \"w\"",
                "volumeMounts[1].mountPath: Invalid value: \"a/\": must be unique",
                "volumeMounts[2].name: Required value",
                "volumeMounts[2].mountPath: Invalid value: \"c:d\": must not contain ':'",
                "volumeMounts[3].name: Not found: \"w\"",
                "volumeMounts[3].mountPath: Required value",
            ],
        ),
        (
            "volumeMounts: [{name: w, mountPath: /a, subPath: /x, subPathExpr: z, recursiveReadOnly: Enabled}]",
            &[
                "volumeMounts[0].name: Not found: \"w\"",
                "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
                "volumeMounts[0].subPathExpr: Invalid value: \"z\": subPathExpr and subPath are mutually exclusive",
                "volumeMounts[0].subPath: Invalid value: \"/x\": must be a relative path",
            ],
        ),
    ]);
}

#[test]
fn mounts_are_made_absolute_and_keep_their_sub_paths() {
    let spec = "volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 1Mi}}], containers: [{name: c, image: x, \
                volumeMounts: [{name: v, mountPath: 'data//x/', readOnly: true}, {name: v, mountPath: /b, subPath: s}, {name: v, mountPath: /c, subPathExpr: '$(A)'}]}]";
    let pod = good("name: p", spec).pod;
    let mounts = &pod.containers[0].mounts;
    assert_eq!((mounts[0].path.as_str(), mounts[0].read_only), ("/data/x", true));
    assert_eq!(mounts[1].sub_path, Some(SubPath::Literal("s".to_owned())));
    assert_eq!(mounts[2].sub_path, Some(SubPath::Expr("$(A)".to_owned())));
    let VolumeSource::EmptyDir { size_limit_bytes, .. } = pod.volumes[0].source else { panic!() };
    assert_eq!(size_limit_bytes, Some(1 << 20));
}
