"""dbt Cloud as the rest of the watcher sees it: connections, one client, one request budget per account, one poller.

It produces the facts of `watcher.lifecycle.facts` and knows nothing of Kubernetes.
"""
