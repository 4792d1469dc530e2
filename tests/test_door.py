"""The front door: what people and programs get by HTTP, before the real Triton."""

import asyncio
import base64
import http.client
import io
import json
import os
import select
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from conftest import compose, encoded, turned
from PIL import Image
from starlette.requests import Request
from tiny_models import CLASSES, GRAPHS, TASKS, publish_all, publish_as, publish_one

from benchmarks.serving.trial import Load, Trial
from nano_cv.data.imagined import noise
from nano_cv.metadata import Metadata
from nano_cv.serving import triton
from nano_cv.serving.backend import Model
from nano_cv.serving.door import AT_ONCE, Door, Problem, Settings
from nano_cv.serving.multipart import split_parts


def picture(colour: str, size: tuple[int, int] = (64, 48), kind: str = "PNG", **more) -> bytes:
    return encoded(Image.new("RGB", size, colour), kind, **more)


@pytest.fixture(scope="module", params=["tiny_triton", "tiny_alone"])
def served(request):
    """Both ways of answering: by Triton, and where there is none, in this process."""
    trial = request.getfixturevalue(request.param)
    trial.has_triton = request.param == "tiny_triton"
    return trial


def test_models(served):
    with served.page("/models") as page:
        models = json.load(page)
    tasks = {f"{model}_tiny": task for task, model in TASKS.items()}
    tasks["lenet_flowers"] = "classification"
    assert [(one["name"], one["task"]) for one in models] == sorted(tasks.items())
    with served.page("/models/colours_tiny") as page:
        shown = json.load(page)
    assert shown["classes"] == CLASSES and shown["trained_on"] == "tiny"
    assert shown["versions"] == ["1"] and shown["image_size"] == 32
    with served.page(shown["card"]) as page:
        assert page.headers["content-type"].startswith("text/markdown")
        card = page.read().decode()
    assert card.startswith("# colours_tiny\n") and "/models/colours_tiny/predict" in card


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_classes(served, kind):
    status, answer = served.predict("colours_tiny", picture("blue", kind=kind))
    assert status == 200 and answer["label"] == "blue"
    assert next(iter(answer["probabilities"])) == "blue"
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert len(served.predict("colours_tiny", picture("red"), "?top=2")[1]["probabilities"]) == 2


@pytest.mark.parametrize(
    ("colour", "labels"), [("black", []), ("red", ["red"]), ("#80b0ff", ["blue", "green", "red"])]
)
def test_several_labels(served, colour, labels):
    status, answer = served.predict("tags_tiny", picture(colour))
    assert status == 200 and list(answer) == ["labels", "probabilities"]
    assert answer["labels"] == labels and set(answer["probabilities"]) == set(CLASSES)
    sure = served.predict("tags_tiny", picture(colour), "?confidence=1")[1]
    assert sure["labels"] == labels[:1]
    status, content = served.predict("tags_tiny", picture(colour), Accept="image/png")
    assert status == 200 and content[1:4] == b"PNG"


def test_boxes_are_in_pixels_of_the_picture(served):
    """Also of a photograph that lies on its side: it is turned first."""
    status, answer = served.predict("boxes_tiny", picture("red", (320, 64)))
    assert status == 200 and (answer["width"], answer["height"]) == (320, 64)
    assert answer["boxes"] == [{"label": "blue", "score": 0.9, "box": [80, 16, 160, 48]}]
    answer = served.predict("boxes_tiny", picture("red", (320, 64)), "?confidence=0.05")[1]
    assert [one["score"] for one in answer["boxes"]] == [0.9, 0.1]
    answer = served.predict("boxes_tiny", picture("red", (320, 64)), "?confidence=1")[1]
    assert answer["boxes"] == [] and answer["highest"] == {"label": "blue", "score": 0.9}
    lying = picture("red", (320, 64), "JPEG", exif=turned())
    answer = served.predict("boxes_tiny", lying)[1]
    assert (answer["width"], answer["height"]) == (64, 320)
    assert answer["boxes"][0]["box"] == [16, 80, 32, 240]


def test_masks(served):
    two = Image.new("RGB", (90, 40), "black")
    two.paste("red", (0, 0, 45, 40))
    status, answer = served.predict("masks_tiny", encoded(two))
    assert status == 200 and [one["label"] for one in answer["classes"]] == CLASSES
    assert [round(one["share"], 1) for one in answer["classes"]] == [0.5, 0.5, 0.0]
    told = Image.open(io.BytesIO(base64.b64decode(answer["mask_png"])))
    asked = served.predict("masks_tiny", encoded(two), Accept="image/png")[1]
    for mask in (told, Image.open(io.BytesIO(asked))):
        assert mask.size == (90, 40) and mask.getpixel((5, 5)) == 1 and mask.getpixel((85, 5)) == 0


def test_drawings(served):
    for model in ("colours_tiny", "boxes_tiny"):
        status, content = served.predict(model, picture("red", (200, 100)), Accept="image/png")
        drawn = np.asarray(Image.open(io.BytesIO(content)))
        assert status == 200 and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 5
    either = "image/png, application/json"
    assert served.predict("colours_tiny", picture("red"), Accept=either)[1]["label"] == "red"


def test_generators(served):
    ask = json.dumps({"class": "green", "seed": 7, "count": 5}).encode()
    status, answer = served.predict("noise_tiny", ask, Content_Type="application/json")
    assert status == 200 and answer["class"] == "green" and len(answer["pictures_png"]) == 5
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["pictures_png"][0]))))
    expected = ((noise(7, 0, 32) + 8) * 8).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    assert np.abs(first.astype(int) - expected).max() <= 1
    content = served.predict("noise_tiny", b"", "?class=green&seed=7", Accept="image/png")[1]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), first)


def test_several_pictures(served):
    form = [
        ("file", ("one.png", picture("red"))),
        ("file", ("two.jpg", b"nothing")),
        ("file", ("three.webp", picture("blue", kind="WEBP"))),
        ("file", ("four.png", b"")),
    ]
    answer = requests.post(f"{served.address}/models/colours_tiny/predict", files=form, timeout=20)
    told = answer.json()["answers"]
    assert [one["file"] for one in told] == ["one.png", "two.jpg", "three.webp", "four.png"]
    assert [one.get("label") for one in told] == ["red", None, "blue", None]
    assert "not a picture in a known format" in told[1]["error"]
    assert "the file is empty" in told[3]["error"]


def test_parts_of_a_form_keep_every_byte():
    content = bytes(range(256)) + b"\r\n--not it\r\n" + b"\r\r\n\n"
    prepared = requests.Request("POST", "http://x", files={"f": ("ü.png", content)}).prepare()
    kind, body = prepared.headers["Content-Type"], prepared.body
    assert split_parts(kind, body)[0][1] == content
    for wrong in (body[:-10], b"", body.replace(b"\r\n\r\n", b"\r\n")):
        with pytest.raises(ValueError):
            split_parts(kind, wrong)
    with pytest.raises(ValueError, match="boundary"):
        split_parts("multipart/form-data", body)
    # What Python's own parser of mail takes seconds for, and names that are no UTF-8.
    head = b'--a\r\nContent-Disposition: form-data; name=a; filename="' + b";" * 3900
    assert len(split_parts(f"x; boundary=a; x={';' * 9000}", 64 * (head + END) + b"--a--")) == 64
    with pytest.raises(ValueError, match="more than 64 parts"):
        split_parts("x; boundary=a", 99 * (head + END) + b"--a--")
    odd = head[:-3900] + b"\xff\"; filename*=utf-7''+2AA-.jpg" + END
    plain = b"--a b\r\ncontent-disposition: form-data; name=f; FileName=photo.jpg" + END
    text = b"--a b\r\ncontent-disposition: form-data; name=note" + END
    assert split_parts("x; boundary=a", odd + b"--a--") == [("\ufffd", b"x")]
    assert split_parts('x; boundary="a b"', plain + b"--a b--") == [("photo.jpg", b"x")]
    starred = plain.replace(b"FileName=", b"filename*=utf-8''")  # as older clients send it
    assert split_parts('x; boundary="a b"', starred + b"--a b--") == [("photo.jpg", b"x")]
    with pytest.raises(ValueError, match="part 1 of the form has no file name; files are sent by"):
        split_parts('x; boundary="a b"', text + plain + b"--a b--")


END = b"\r\n\r\nx\r\n"
CURL = "application/x-www-form-urlencoded"  # what `curl -d` sends
PROBLEMS = [
    ("colour", b"x", "", {}, 404, "no model 'colour'; did you mean 'colours_tiny'?"),
    ("colours_tiny", b"no picture", "", {}, 422, "not a picture in a known format"),
    ("colours_tiny", b"", "", {}, 422, "curl sends one by --data-binary @FILE"),
    ("colours_tiny", bytes(300_001), "", {}, 413, "at most 300,000 bytes"),
    ("colours_tiny", picture("red", (700, 700)), "", {}, 422, "at most 400,000 are allowed"),
    ("colours_tiny", picture("red")[:60], "", {}, 422, "damaged or cut short"),
    ("colours_tiny", b"a.jpg", "", {"Content_Type": CURL}, 422, "send a picture by --data-binary"),
    ("colours_tiny", b"x", "", {"Content_Type": "text/html"}, 415, "Content-Type: text/html"),
    ("boxes_tiny", b"x", "?confidence=2", {}, 422, "confidence='2': Input should be less than"),
    ("colours_tiny", b"x", "?confidence=0.5", {}, 422, "A model for classification takes top"),
    ("boxes_tiny", b"x", "?confidenc=0.5", {}, 422, "did you mean 'confidence'?"),
    ("masks_tiny", b"x", "?top=1", {}, 422, "A model for segmentation takes no settings in"),
    ("noise_tiny", b"", "?class=gren", {}, 422, "class=gren; did you mean 'green'?"),
    ("noise_tiny", b"[" * 5_000, "", {}, 413, "at most 4,096 bytes"),
    ("noise_tiny", picture("red"), "", {}, 422, "a generator takes no picture, but JSON"),
    ("noise_tiny", b'{"seed": -1}', "", {}, 422, "seed=-1"),
    ("noise_tiny", b'{"seed": "7"}', "", {}, 422, "seed='7': Input should be a valid integer"),
    ("noise_tiny", b'{"count": 17}', "", {}, 422, "count=17: Input should be less than or"),
    ("noise_tiny", b"", "?count=9", {"Accept": "image/png"}, 422, "image/png is for count=1"),
    ("noise_tiny", b'{"shape": [9]}', "", {}, 422, "shape=[9]: Extra inputs"),
    ("colours_tiny", b"x", "", {"Host": "evil.example"}, 421, "add yours: serve.py hosts=[NAME]"),
    ("colours_tiny", b"x", "", {"Sec_Fetch_Site": "cross-site"}, 403, "other sites"),
]


@pytest.mark.parametrize(("model", "body", "query", "headers", "status", "said"), PROBLEMS)
def test_problems(served, model, body, query, headers, status, said):
    """Each is a document that says what to do, and the next request is answered."""
    got, problem = served.predict(model, body, query, **headers)
    assert (got, problem["status"]) == (status, status) and said in problem["detail"]
    assert served.predict("colours_tiny", picture("red"))[0] == 200


def test_endless_and_slow_bodies(served):
    """More than is allowed, without saying so before; and a body that does not arrive."""
    link = http.client.HTTPConnection("127.0.0.1", served.ports["port"], timeout=20)
    chunks = (bytes(1000) for _ in range(400))
    link.request("POST", "/models/colours_tiny/predict", chunks, encode_chunked=True)
    assert link.getresponse().status == 413
    head = b"POST /models/colours_tiny/predict HTTP/1.1\r\n"
    head += b"Host: localhost\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.ports["port"]), timeout=20) as slow:
        slow.sendall(head + b"x")
        assert b" 408 " in slow.recv(100)
    # Bodies that were promised and do not come take no room away from others.
    promised = head.replace(b"Length: 9", b"Length: 300000")
    links = [socket.create_connection(("127.0.0.1", served.ports["port"])) for _ in range(9)]
    for silent in links:
        silent.sendall(promised)
    time.sleep(0.5)  # until they have arrived
    assert served.predict("colours_tiny", picture("red"))[0] == 200
    for silent in links:
        silent.close()
    link.close()
    link.request("GET", "/models/colours_tiny/predict")
    said = link.getresponse()
    assert said.status == 405 and b"another method" in said.read()
    assert said.headers["Allow"] == "POST"
    assert served.predict("colours_tiny", b"x", "/")[0] == 404, "and no redirect"


def test_answers_that_are_not_read(served):
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.ports["port"]))
        deaf.sendall(1000 * b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        ended = select.poll()
        ended.register(deaf, select.POLLHUP)
        assert ended.poll(30_000)
    assert served.health()[0] == 200


def test_a_thousand_silent_connections(served):
    links = []
    for _ in range(1000):
        links.append(socket.create_connection(("127.0.0.1", served.ports["port"]), timeout=20))
        links[-1].sendall(b"GET /live HTTP/1.1\r\nHost: local")
    assert served.predict("colours_tiny", picture("red"))[0] == 200
    assert served.health()[0] == 200
    assert b" 408 " in links[0].recv(100) and links[0].recv(100) == b""
    for link in links:
        link.close()
    served.wait(lambda: served.health()[0] == 200)


def test_too_many_connections(served):
    links = [socket.create_connection(("127.0.0.1", served.ports["port"])) for _ in range(1250)]
    links[-1].sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    links[-1].settimeout(20)
    assert b" 503 " in links[-1].recv(100)
    for link in links:
        link.close()
    served.wait(lambda: served.health()[0] == 200)


def test_health_and_metrics(served):
    status, health = served.health()
    assert status == 200 and health["status"] == "ok"
    shown = {name for name in health["models"] if name.endswith(("_tiny", "_flowers"))}
    assert shown == {"lenet_flowers", *(f"{one}_tiny" for one in TASKS.values())}
    with served.page("/metrics") as page:
        text = page.read().decode()
        assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'nano_cv_model_up{model="colours_tiny"} 1' in text
    assert 'nano_cv_answers_total{model="colours_tiny",status="200"}' in text
    counted = 'nv_inference_request_success{model="colours_tiny",version="1"}'
    assert (counted in text) == served.has_triton
    with served.page("/live") as page:
        assert page.read() == b"live\n"
    checked = requests.head(f"{served.address}/live", timeout=20)
    assert checked.status_code == 200 and checked.content == b""


def test_documents(served):
    with served.page("/openapi.json") as page:
        paths = json.load(page)["paths"]
    asks = paths["/models/{name}/predict"]["post"]
    assert "multipart/form-data" in str(asks["requestBody"])
    assert set(asks["responses"]) == {"200", "default"}
    card = paths["/models/{name}/card"]["get"]["responses"]["200"]["content"]
    assert list(card) == ["text/markdown"]
    with served.page("/docs") as page:
        text = page.read().decode()
        policy = page.headers["Content-Security-Policy"]
    assert all(f"<code>{path}</code>" in text for path in paths)
    assert "{{" not in text and "default-src 'none'" in policy
    assert "://" not in text.replace(served.address, ""), "something comes from elsewhere"
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}  # as in a mail
    assert requests.get(served.address, headers=link, timeout=20).status_code == 200
    assert requests.post(served.address + "/models/x/predict", headers=link).status_code == 403


def test_forms_leave_a_thread_to_other_requests(monkeypatch):
    """However many forms come at once: all of them together have one thread of two."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    busy = []

    async def ask(*_, **__):
        busy.append(busy[-1] + 1 if busy else 1)
        await asyncio.sleep(0)
        busy.append(busy[-1] - 1)
        return {}

    async def send_forms():
        door = Door(SimpleNamespace(models={}), compose("serve"))
        door._ask = ask
        asked = SimpleNamespace(confidence=None, top=None)
        request = Request({"type": "http", "headers": []}, asyncio.Event().wait)  # it stays
        form = [("a.png", b"a"), ("b.png", b"b")]
        return await asyncio.gather(*(door._answer(request, None, form, asked) for _ in range(3)))

    answered = asyncio.run(send_forms())
    assert [len(json.loads(one.body)["answers"]) for one in answered] == [2, 2, 2]
    assert max(busy) == 1


@pytest.mark.parametrize("state, status", [("starting", 503), ("serving", 404)])
def test_503_while_models_are_loaded(state, status):
    door = Door(SimpleNamespace(models={}, state=state), compose("serve"))
    with pytest.raises(Problem) as problem:
        asyncio.run(door.show_model("lenet_flowers"))
    response = problem.value.response()
    assert response.status_code == status
    assert response.headers.get("Retry-After") == ("1" if status == 503 else None)


def test_nothing_more_is_made_for_a_client_that_has_gone():
    made = []

    async def infer(name, inputs):
        made.append(name)
        return {"IMAGES": np.zeros((1, 3, 8, 8), np.uint8)}

    async def is_disconnected():
        return len(made) > 0

    metadata = Metadata("generation", "noise", "tiny", ["x", "y"], 8, [0.5] * 3, [0.5] * 3)
    door = Door(SimpleNamespace(models={}, infer=infer), compose("serve"))
    request = SimpleNamespace(headers={}, is_disconnected=is_disconnected)
    with pytest.raises(Problem, match="nobody waits"):
        asyncio.run(door._generate(request, Model("n", metadata=metadata), Settings(count=9)))
    assert len(made) == AT_ONCE


def test_a_generator_answers_one_request_after_the_other():
    """Else many at once would all end too late. Other generators do not wait for it."""
    running, most = {"a": 0, "b": 0}, {"a": 0, "b": 0}

    async def infer(name, inputs):
        running[name] += 1
        most[name] = max(most[name], running[name])
        while 0 in most.values():  # a waits for b, and b for a
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        running[name] -= 1
        return {"IMAGES": np.zeros((1, 3, 8, 8), np.uint8)}

    async def is_disconnected():
        return False

    async def ask():
        door = Door(SimpleNamespace(models={}, infer=infer), compose("serve"))
        metadata = Metadata("generation", "noise", "tiny", ["x"], 8, [0.5] * 3, [0.5] * 3)
        request = SimpleNamespace(headers={}, is_disconnected=is_disconnected)
        models = [Model(name, metadata=metadata) for name in "ab" for _ in range(3)]
        await asyncio.gather(*(door._generate(request, one, Settings(count=2)) for one in models))

    asyncio.run(asyncio.wait_for(ask(), 20))
    assert most == {"a": 2, "b": 2}


def test_a_new_version_is_taken_over(served):
    models = served.output.parent / "models"
    with Load(served.http_call("colours_tiny", picture("red"))) as load:
        publish_one(models, "classification")
        served.wait(lambda: served.model("colours_tiny")["versions"] == ["2"])
        served.wait(lambda: served.health()[0] == 200)
        served.wait(lambda: "colours_tiny: ready: version 2" in served.output.read_text())
    assert load.good() and not load.errors()


def test_requests_are_held_while_triton_is_started_again(tiny_triton):
    with Load(tiny_triton.http_call("noise_tiny", b"{}")) as load:  # Triton itself must answer it
        tiny_triton.wait(lambda: len(load.good()) > 20)
        tiny_triton.server().kill()
        tiny_triton.wait(lambda: tiny_triton.health()[1]["server_restarts"] == 1)
        tiny_triton.wait(lambda: tiny_triton.health()[0] == 200, 60)
        count = len(load.good())
        tiny_triton.wait(lambda: len(load.good()) > count + 20)
    assert not load.errors()


def test_many_at_once(served):
    asked = CLASSES * 20
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda one: served.predict("colours_tiny", picture(one))[1], asked))
    assert [one["label"] for one in told] == asked


def test_memory_that_large_requests_leave(served):
    import psutil

    process = psutil.Process(served.process.pid)
    served.predict("colours_tiny", bytes(290_000))
    before = process.memory_info().rss
    for _ in range(200):
        served.predict("colours_tiny", bytes(290_000))
    assert process.memory_info().rss - before < 20 * 2**20


def test_how_to_get_triton_is_said(served):
    said = served.output.read_text()
    line = "onnxruntime in this process answers: the Triton server is not installed; type: poetry"
    assert (line in said and "docker compose up" in said) != served.has_triton


def test_sigterm_ends_what_was_begun(tmp_path):
    publish_all(tmp_path / "models")
    with Trial(tmp_path / "models", tmp_path, without=True) as trial:
        trial.wait_ready()
        load = Load(trial.http_call("colours_tiny", picture("red")), until_error=True)
        with load:
            trial.wait(lambda: len(load.good()) > 20)
            trial.process.terminate()
            assert trial.process.wait(20) == 0
    gone = ("Connection refused", "RemoteDisconnected", "Broken pipe", "reset")
    assert all(any(word in error for word in gone) for error in load.errors()), load.errors()


# Turns for ever, unless the picture is black.
ENDLESS = """endless (uint8[B,3,SIDE,SIDE] IMAGES) => (float[B,3] CLASS_PROBS)
<float scale = {0.05}, int64 many = {1099511627776}, bool yes = {1}> {
    x = Cast <to = 1> (IMAGES)
    mean = ReduceMean <axes = [2, 3], keepdims = 0> (x)
    scores = Mul (mean, scale)
    most = ReduceMax <keepdims = 0> (x)
    whole = Cast <to = 7> (most)
    turns = Mul (whole, many)
    last = Loop (turns, yes, scores) <body = step (int64 i, bool c, float[B,3] s)
    => (bool d, float[B,3] t) { d = Identity (c) t = Identity (s) }>
    CLASS_PROBS = Softmax <axis = 1> (last)
}"""


def test_a_model_that_hangs_and_other_host_names(tmp_path, monkeypatch):
    """It takes no thread away from the others, nor does a pipe, and SIGTERM ends the server."""
    publish_one(tmp_path / "models", "classification")
    (tmp_path / "models/colours_tiny/2").mkdir()
    os.mkfifo(tmp_path / "models/colours_tiny/2/model.onnx")
    publish_one(tmp_path / "models", "tagging")
    monkeypatch.setitem(GRAPHS, "tagging", GRAPHS["tagging"].replace("{255.0}", "{0.0}"))
    publish_one(tmp_path / "models", "tagging")
    monkeypatch.setitem(GRAPHS, "classification", ENDLESS)
    publish_one(tmp_path / "models", "classification", "endless")
    settings = ("answer_seconds=5", "hosts=[Demo.Example]")  # and this machine's own
    with Trial(tmp_path / "models", tmp_path, *settings, without=True) as trial:
        trial.wait_ready()
        assert "a pipe" in trial.model("colours_tiny")["refused"]["2"]
        assert "answers a black picture with NaN" in trial.model("tags_tiny")["refused"]["2"]
        white = picture("white")
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(trial.predict, "endless_tiny", white) for _ in range(4)]
            assert {one.result()[0] for one in asked} == {504}
        assert trial.predict("colours_tiny", white, Host="demo.example")[0] == 200
        assert trial.predict("colours_tiny", white, Host="evil.example")[0] == 421
        (tmp_path / "models/junk_tiny/1").mkdir(parents=True)
        (tmp_path / "models/junk_tiny/1/model.onnx").write_bytes(b"junk")
        trial.wait(lambda: trial.predict("junk_tiny", white)[0] == 503)
        assert "onnxruntime cannot load it" in trial.predict("junk_tiny", white)[1]["detail"]
        trial.process.terminate()
        assert trial.process.wait(20) == 0


def test_a_version_that_is_replaced_in_place(served, tmp_path):
    """Answers and descriptions are both of the new one."""
    models = served.output.parent / "models"
    publish_one(models, "classification", "swapped")
    served.wait(
        lambda: "swapped_tiny" in served.health()[1]["models"] and served.health()[0] == 200
    )
    monday = Metadata(
        "classification", "swapped", "tiny", ["x", "y", "z"], 32, [0.5] * 3, [0.5] * 3
    )
    publish_as(tmp_path / "models", monday)
    for name in ("swapped_tiny", "swapped_tiny_from_jpeg"):
        shutil.copytree(tmp_path / "models" / name, models / name, dirs_exist_ok=True)

    def shown() -> list[str]:
        with served.page("/models/swapped_tiny") as page:
            return json.load(page)["classes"]

    served.wait(lambda: shown() == ["x", "y", "z"])
    served.wait(lambda: served.predict("swapped_tiny", picture("red"))[1].get("label") == "x")
    for name in ("swapped_tiny", "swapped_tiny_from_jpeg"):
        shutil.rmtree(models / name)
    served.wait(lambda: "swapped_tiny" not in served.health()[1]["models"])


def test_before_a_triton_that_runs_already(tiny_triton, tmp_path):
    asked = f"triton=127.0.0.1:{tiny_triton.ports['grpc_port']}"
    with Trial(tmp_path / "none", tmp_path, asked, "models=[colours_tiny]") as trial:
        trial.wait_ready()
        assert not trial.children(), "it starts none of its own"
        models = trial.health()[1]["models"]
        assert sorted(models) == ["colours_tiny", "colours_tiny_from_jpeg"]
        assert trial.predict("colours_tiny", picture("blue"))[1]["label"] == "blue"


def test_a_triton_that_is_not_there_or_lacks_a_model(served, run, fails):
    port = f"port={triton.free_ports(1)[0]}"
    done = run("serve", "triton=127.0.0.1:9", port)
    assert done.status == 1
    assert done.err.startswith("error: triton=127.0.0.1:9: no Triton server answers there by gRPC")
    if served.has_triton:
        there = f"triton=127.0.0.1:{served.ports['grpc_port']}"
        assert "did you mean 'colours_tiny'?" in fails("serve", there, "models=[colors_tiny]", port)
        assert "models=[]: a list of 1 is needed" in fails("serve", there, "models=[]", port)
