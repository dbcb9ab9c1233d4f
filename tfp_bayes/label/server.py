"""Server of the web page on which a person labels, for this machine only."""

import hmac
import secrets
from importlib import resources

from tfp_bayes._plumbing.images import png
from tfp_bayes.label.session import Session
from tfp_bayes.label.start import StartSession

try:
    import flask
except ImportError as error:
    raise ImportError(
        "Expected Flask, which serves the labeling page. "
        f'Received: {error}. Hint: pip install "tfp_bayes[label]".'
    ) from None

HOST = "127.0.0.1"  # no other address, because anyone who reaches the page can label


def make_app(session: Session | StartSession, token: str | None = None) -> flask.Flask:
    """Return the web application of a labeling session.

    The first request and those for images carry a token in their address. Requests that change
    anything must carry it in a header, which the page of another site can neither know nor send.

    Args:
        session: Session to show.
        token: Token of the page. None creates one; it is `app.config["TOKEN"]`.
    """
    app = flask.Flask("tfp_bayes")
    app.config["TOKEN"] = token or secrets.token_urlsafe(16)

    @app.before_request
    def check_token():
        if flask.request.host.split(":")[0] not in (HOST, "localhost"):
            flask.abort(403)  # DNS rebinding: another site's host name resolves to this machine
        given = flask.request.headers.get("X-Token") or flask.request.args.get("token", "")
        if flask.request.method == "POST":
            given = flask.request.headers.get("X-Token", "")
        if not hmac.compare_digest(given.encode(), app.config["TOKEN"].encode()):
            flask.abort(403)

    @app.get("/")
    def page():
        return resources.files("tfp_bayes").joinpath("label/page.html").read_text()

    @app.get("/state")
    def state():
        return session.state()

    @app.get("/image/<int:index>")
    def image(index: int):
        shown = session.image(index)
        if shown is None:
            flask.abort(404)
        # The page shows each image many times, and the image at an address never changes.
        kept = {"Cache-Control": "private, max-age=86400"}
        return flask.Response(png(shown), mimetype="image/png", headers=kept)

    @app.post("/label")
    def label():
        return act(lambda body: session.label(int(body["index"]), str(body["label"])))

    @app.post("/skip")
    def skip():
        return act(lambda body: session.skip(int(body["index"])))

    @app.post("/undo")
    def undo():
        return act(lambda body: session.undo(int(body["index"])))

    @app.post("/next")
    def next_batch():
        return act(lambda body: session.start())

    def act(action):
        try:
            action(flask.request.get_json(force=True))
        except (ValueError, KeyError, TypeError) as error:
            return {"error": str(error)}, 400
        except OSError as error:  # for example, the disk is full
            return {"error": f"Not saved: {error}"}, 507
        return session.state()

    return app
