# Runs the commands of a script with the AWS CLI, all in one interpreter: the
# program is the CLI's own, only its start is spared.
import contextlib, io, json, re, shlex, sys
from awscli.clidriver import create_clidriver

script, endpoint = sys.argv[1:]
text = open(script).read().replace("\\\n", " ")
known, fails, has, failed = {}, None, None, 0
cli = create_clidriver()
for line in text.splitlines():
    if line.startswith("#! "):
        fails = line[3:]
    elif line.startswith("#= "):
        has = line[3:]
    elif line.startswith("aws "):
        args = [re.sub("^(certificateArn|certificateId)$", lambda m: known[m.group()], a) for a in shlex.split(line)[1:]]
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(["--endpoint-url", endpoint, "--output", "json"] + args)
            except SystemExit as e:
                code = e.code
        out.flush()
        said = out.buffer.getvalue().decode()
        with contextlib.suppress(ValueError):
            known.update({k: v for k, v in json.loads(said).items() if isinstance(v, str)})
        if fails:
            good = code != 0 and "(%s)" % fails in err.getvalue()
        else:
            good = code == 0 and (not has or known.get(has, has) in said)
        if not good:
            failed += 1
            print("%s\n  %s, wanted %s: %s %s" % (line, code, fails or has, said, err.getvalue()))
        fails = has = None
sys.exit(failed and 1)
