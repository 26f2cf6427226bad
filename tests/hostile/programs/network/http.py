# Fetches a page.
# expect: error
import urllib.request
print("BREACH", urllib.request.urlopen(f"http://127.0.0.1:{PORT}/").read())
