"""Concurrent requests of one session on Django, in a fixed order: `/slow` loads the session, waits
for the response to another request with the same cookie, and changes one value.

The argument is a session engine: `db` or `cached_db`.
"""

import logging
import sys

import django
from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache

ENGINE = sys.argv[1]


class Cache(LocMemCache):
    """A cache that calls `before_set` once, before it stores the next value."""

    before_set = None

    def set(self, *args, **kwargs):
        hook, Cache.before_set = Cache.before_set, None
        if hook:
            hook()
        super().set(*args, **kwargs)


settings.configure(
    SECRET_KEY="s",
    ROOT_URLCONF=__name__,
    SESSION_ENGINE=f"django.contrib.sessions.backends.{ENGINE}",
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES={"default": {"BACKEND": f"{__name__}.Cache"}},
    ALLOWED_HOSTS=["testserver"],
)
django.setup()
logging.disable()  # A refused request is logged with its trace.

from django.core.cache import cache
from django.core.management import call_command
from django.http import JsonResponse
from django.test import Client
from django.urls import path


def page(change):
    def view(request):
        change(request)
        return JsonResponse(dict(request.session))

    return view


def slow(request):
    request.session.get("user")
    send(request.GET["during"], request.COOKIES["sessionid"])
    request.session["visits"] = 1


urlpatterns = [
    path("", page(lambda request: None)),
    path("sign-in", page(lambda request: request.session.update({"user": "ada"}))),
    path("theme", page(lambda request: request.session.update({"theme": "dark"}))),
    path("sign-out", page(lambda request: request.session.flush())),
    path("slow", page(slow)),
]


def send(url, cookie=None):
    client = Client(raise_request_exception=False)
    if cookie:
        client.cookies["sessionid"] = cookie
    return client.get(url)


def sign_in():
    return send("/sign-in").cookies["sessionid"].value


call_command("migrate", verbosity=0)
for during in ("/theme", "/sign-out"):
    cookie = sign_in()
    status = send(f"/slow?during={during}", cookie).status_code
    print(f"after {during} during /slow ({status}):", send("/", cookie).content.decode())

if ENGINE == "cached_db":
    # A request misses the cache and reads the database. The user signs out before it fills the
    # cache.
    cookie = sign_in()
    cache.clear()
    Cache.before_set = lambda: send("/sign-out", cookie)
    send("/", cookie)
    print("after /sign-out during a fill of the cache:", send("/", cookie).content.decode())
