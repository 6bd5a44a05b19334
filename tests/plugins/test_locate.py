from __future__ import annotations

import errno

import httpx2
import pytest
from huggingface_hub import errors

from sgcore.errors import LaunchError
from sgcore.plugins.locate import locate

RESPONSE = httpx2.Response(404, request=httpx2.Request("GET", "https://hub"))


def hub(monkeypatch, answer):
    def fetch(hub_id, revision, ignore_patterns):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)


def test_a_local_folder_or_file_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").touch()
    assert locate("owner/name") == tmp_path / "owner" / "name"


@pytest.mark.parametrize("path", ["/no/where", "./nowhere", "../x", "a/b/c", "~/nowhere/at/all", "C:\\x", "a b"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(path, monkeypatch):
    hub(monkeypatch, AssertionError("asked"))
    with pytest.raises(LaunchError, match="no such model folder or file") as caught:
        locate(path)
    assert caught.value.exit_code == 1


def test_a_hub_id_is_fetched(tmp_path, monkeypatch):
    hub(monkeypatch, str(tmp_path))
    assert locate("owner/name") == tmp_path


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.GatedRepoError("x", response=RESPONSE), "owner/name is gated"),
        (errors.RepositoryNotFoundError("x", response=RESPONSE), "neither a local path nor a model on the hub"),
        (errors.RevisionNotFoundError("x", response=RESPONSE), "no revision 'main2'"),
        (errors.LocalEntryNotFoundError("x"), "the hub can't be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "no disk space left"),
        (httpx2.ConnectError("refused"), "can't fetch owner/name: ConnectError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_reason_why_the_hub_says_no(monkeypatch, error, text):
    hub(monkeypatch, error)
    with pytest.raises(LaunchError, match=text) as caught:
        locate("owner/name", "main2")
    assert caught.value.hint and caught.value.__cause__ is error
