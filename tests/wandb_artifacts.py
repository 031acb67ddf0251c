"""Artifacts of the double of the W&B server: how they come, in versions, and how they are read and deleted."""

import json
from collections.abc import Callable, Iterator
from typing import Any

ENTITY = "team"
PAGE = {"endCursor": None, "hasNextPage": False}


class Artifacts:
    """A part of `WandbServer`, which has `run` and `url`.

    An artifact is a dict: what `CreateArtifact` said of it, "id", "files", "committed", "version" and "aliases".
    """

    def __init__(self) -> None:
        self.artifacts: dict[str, dict[str, Any]] = {}  # by id
        self.num_deleted = 0

    def create_artifact(self, variables: dict) -> dict:
        asked = variables["input"]
        identity = str(len(self.artifacts) + self.num_deleted)
        artifact = {**asked, "id": identity, "files": {}, "committed": False, "project": asked["projectName"]}
        self.artifacts[identity] = artifact
        if asked["runName"]:  # what a run only uses has none
            self.run(asked["runName"]).artifacts.append(self.artifacts[identity])
        node = {"id": identity, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": node}}

    def versions(self, collection: str) -> Iterator[dict[str, Any]]:
        """Yield what has been committed under a name, the newest first."""
        known = [artifact for artifact in self.artifacts.values() if artifact["committed"]]
        own = [artifact for artifact in known if artifact["artifactCollectionName"] == collection]
        return iter(sorted(own, key=lambda artifact: -artifact["version"]))

    def artifact_url(self, identity: str, name: str) -> str:
        return f"{self.url}/artifact/{identity}/{name}"

    def create_manifest(self, variables: dict) -> dict:
        identity = variables["artifactID"]
        file = {"id": "1", "uploadUrl": self.artifact_url(identity, "manifest"), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"{identity}:manifest", "file": file}}}

    def create_artifact_files(self, variables: dict) -> dict:
        nodes = []
        for file in variables["input"]["artifactFiles"]:
            identity = file["artifactID"]
            node = {"storagePath": file["name"], "uploadUrl": self.artifact_url(identity, file["name"])}
            nodes.append({"node": {**node, "uploadHeaders": [], "artifact": {"id": identity}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def commit_artifact(self, variables: dict) -> dict:
        artifact = self.artifacts[variables["artifactID"]]
        others = list(self.versions(artifact["artifactCollectionName"]))
        asked = [alias["alias"] for alias in artifact.get("aliases") or []]
        for other in others:
            other["aliases"] = [alias for alias in other["aliases"] if alias not in {"latest", *asked}]
        artifact |= {"committed": True, "version": max((each["version"] for each in others), default=-1) + 1}
        artifact["aliases"] = sorted({"latest", *asked})
        return {"commitArtifact": {"artifact": {"id": artifact["id"], "digest": artifact["digest"]}}}

    def artifact_type(self, variables: dict) -> dict:
        return {"project": {"artifact": None}}

    def collection(self, variables: dict) -> dict:
        name = variables["name"]
        found = next(self.versions(name), None)
        node = None
        if found is not None:
            kind = {"name": found["artifactTypeName"]}
            node = {"__typename": "ArtifactSequence", "id": name, "name": name, "description": None, "type": kind}
            node |= {"createdAt": "2026-11-01T12:00:00Z", "updatedAt": None, "tags": {"edges": []}}
            node["project"] = self.project_of(found)
        return {"project": {"artifactType": {"artifactCollection": node}}}

    def types(self, variables: dict) -> dict:
        names = {artifact["artifactTypeName"] for artifact in self.artifacts.values()}
        edges = [{"cursor": name, "node": self.type_node(name)} for name in sorted(names)]
        return {"project": {"artifactTypes": {"edges": edges, "pageInfo": PAGE}}}

    def one_type(self, variables: dict) -> dict:
        return {"project": {"artifactType": self.type_node(variables["type"])}}

    def type_node(self, name: str) -> dict:
        node = {"__typename": "ArtifactType", "id": name, "name": name, "description": None}
        return {**node, "createdAt": "2026-11-01T12:00:00Z"}

    def collections(self, variables: dict) -> dict:
        kind = variables["type"]
        own = [artifact for artifact in self.artifacts.values() if artifact["artifactTypeName"] == kind]
        names = {artifact["artifactCollectionName"] for artifact in own}
        nodes = [self.collection({"name": name})["project"]["artifactType"]["artifactCollection"] for name in names]
        found = {"totalCount": len(nodes), "pageInfo": PAGE, "edges": [{"node": node} for node in nodes]}
        return {"project": {"artifactType": {"artifactCollections": found}}}

    def project_of(self, artifact: dict) -> dict:
        return {"id": "1", "internalId": "1", "name": artifact["project"], "entity": {"name": ENTITY}}

    def list_versions(self, variables: dict) -> dict:
        edges = [
            {"version": f"v{artifact['version']}", "node": self.artifact_node(artifact)}
            for artifact in self.versions(variables["collection"])
        ]
        found = {"totalCount": len(edges), "pageInfo": PAGE, "edges": edges}
        collection = {"__typename": "ArtifactSequence", "artifacts": found}
        return {"project": {"artifactType": {"artifactCollection": collection}}}

    def artifact_node(self, artifact: dict) -> dict:
        place = {"__typename": "ArtifactSequence", "name": artifact["artifactCollectionName"]}
        place["project"] = self.project_of(artifact)
        aliases = [
            {"__typename": "ArtifactAlias", "id": alias, "alias": alias, "artifactCollection": place}
            for alias in artifact["aliases"]
        ]
        node = {"__typename": "Artifact", "id": artifact["id"], "artifactSequence": place, "aliases": aliases}
        node |= {"versionIndex": artifact["version"], "artifactType": {"name": artifact["artifactTypeName"]}}
        node |= {"description": None, "metadata": artifact.get("metadata"), "tags": [], "historyStep": None}
        node |= {"ttlDurationSeconds": -2, "ttlIsInherited": True, "state": "COMMITTED", "commitHash": ""}
        node |= {"size": sum(map(len, artifact["files"].values())), "digest": artifact["digest"]}
        node |= {"fileCount": len(artifact["files"]) - 1, "createdAt": "2026-11-01T12:00:00Z", "updatedAt": None}
        return {**node, "digestAlgorithm": "MANIFEST_MD5"}

    def by_id(self, variables: dict) -> dict:
        return {"artifact": self.artifact_node(self.artifacts[variables["id"]])}

    def manifest(self, variables: dict) -> dict:
        url = self.artifact_url(variables["id"], "manifest")
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def file_urls(self, variables: dict) -> dict:
        artifact = next(
            each for each in self.versions(variables["collection"]) if f"v{each['version']}" == variables["alias"]
        )
        names = json.loads(artifact["files"]["manifest"])["contents"]
        edges = [
            {"node": {"__typename": "File", "name": name, "directUrl": self.artifact_url(artifact["id"], name)}}
            for name in names
        ]
        files = {"pageInfo": PAGE, "edges": edges}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": collection}}

    def delete_artifact(self, variables: dict) -> dict:
        identity = variables["input"]["artifactID"]
        artifact = self.artifacts.pop(identity)
        self.num_deleted += 1
        if artifact["runName"]:
            self.run(artifact["runName"]).artifacts.remove(artifact)
        return {"result": {"artifact": {"id": identity}}}

    def use_artifact(self, variables: dict) -> dict:
        asked = variables["input"]
        self.run(asked["runName"]).used.append(asked["artifactID"])
        return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}

    OPERATIONS: dict[str, Callable] = {
        "ArtifactType": artifact_type,
        "CreateArtifact": create_artifact,
        "CreateArtifactManifest": create_manifest,
        "CreateArtifactFiles": create_artifact_files,
        "CommitArtifact": commit_artifact,
        "ProjectArtifactCollection": collection,
        "ProjectArtifactTypes": types,
        "ProjectArtifactType": one_type,
        "ArtifactTypeArtifactCollections": collections,
        "ProjectArtifacts": list_versions,
        "ArtifactByID": by_id,
        "FetchArtifactManifest": manifest,
        "GetArtifactMembershipFileUrls": file_urls,
        "DeleteArtifact": delete_artifact,
        "UseArtifact": use_artifact,
    }
