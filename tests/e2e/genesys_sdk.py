"""Lists and creates queues with the Genesys Cloud SDK, which is configured with an address only.

The token is revoked between two pages. An error of any kind ends this with a traceback and a status that is not 0.
"""

import sys
from urllib.request import ProxyHandler, Request, build_opener

import PureCloudPlatformClientV2 as genesys

proxy, control = sys.argv[1:]


def revoke_token():
    # Loopback addresses are reached without a proxy of the environment.
    build_opener(ProxyHandler({})).open(Request(control + "/revoke", method="POST"), timeout=10).close()


genesys.configuration.host = proxy
routing = genesys.RoutingApi(genesys.ApiClient())

names = []
page_number, page_count = 1, None
while page_count is None or page_number <= page_count:
    page = routing.get_routing_queues(page_size=3, page_number=page_number)
    assert page.page_number == page_number, page
    names += [queue.name for queue in page.entities]
    page_count = page.page_count
    if page_number == 1:
        revoke_token()
    page_number += 1
assert page_count == 3, page_count
assert names == ["Billing", "Claims", "Escalation", "Overflow", "Sales", "Support", "Vacation"], names

wanted = genesys.CreateQueueRequest()
wanted.name = "Weekend"
created = routing.post_routing_queues(wanted)
assert created.name == "Weekend", created
assert created.id, created

found = routing.get_routing_queues(page_size=3, page_number=3).entities
assert [queue.name for queue in found] == ["Vacation", "Weekend"], found
