# Plants a cron job.
# expect: error
open("/etc/cron.d/planted", "w").write("* * * * * root id")
