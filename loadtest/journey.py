"""What a whole gateway is loaded with: keys, routes, and requests that use all of them."""

from programs import new_key

APIS, ROUTES_PER_API, APPLICATIONS = 100, 100, 100
# A limit that no load here reaches.
FAR = 1_000_000
LINES = 1000
# Redis is there to share limits with a second gateway.
SHARED = {"throttle": {"instances": 2}}


class Journey:
    """Applications with a hashed key each, and requests of theirs."""

    def __init__(self, directory, tollgate):
        self.keys = []
        for number in range(APPLICATIONS):
            application = f"app-{number:03}"
            self.keys.append((application, *new_key(tollgate, application)))
        self.requests = directory / "requests.txt"
        self.requests.write_text("".join(self.lines()))

    def lines(self):
        """Keys and paths, none of them like the one before: neither a route nor a key is always the one just looked up."""
        for number in range(LINES):
            name, route = (number * 37) % APIS, (number * 13) % ROUTES_PER_API
            yield f"{self.keys[number * 7 % APPLICATIONS][1]} /api-{name:03}/items/{number}/part-{route:03}\n"

    def first(self):
        """Key and path of the first request."""
        key, path = next(self.lines()).split()
        return key, path

    def applications(self, subscriptions):
        return [{"name": name, "subscriptions": subscriptions, "keys": [record]} for name, _, record in self.keys]

    def revision(self, origin, limits, apis=APIS, subscriptions=APIS):
        """APIs of a hundred routes each (a literal, a parameter, a literal), and a plan with these limits for the first
        so many of them."""
        routes = [{"path": f"/{{id}}/part-{route:03}", "methods": ["GET"]} for route in range(ROUTES_PER_API)]
        published = [
            {
                "name": f"api-{number:03}",
                "base_path": f"/api-{number:03}/items",
                "auth": ["api_key"],
                "upstream": "origin",
                "routes": list(routes),
            }
            for number in range(apis)
        ]
        subscribed = [{"api": api["name"], "plan": "plan"} for api in published[:subscriptions]]
        return {
            "version": 1,
            "upstreams": [{"name": "origin", "endpoints": [{"address": origin}]}],
            "plans": [{"name": "plan", "limits": limits}],
            "apis": published,
            "applications": self.applications(subscribed),
        }


def two_limits(rate=FAR):
    """So many a second, and far more in an hour than any load here."""
    return [{"name": "burst", "rate": f"{rate}/s"}, {"name": "hour", "rate": f"{1000 * FAR}/h"}]
