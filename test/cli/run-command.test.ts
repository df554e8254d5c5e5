import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, readlink, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { duplexPair, PassThrough } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import type { ExecRequest } from '../../src/api/vm.ts';
import { BangerError } from '../../src/errors.ts';
import { tempDir } from '../support/temp-dir.ts';
import { type CliOptions, cli, done, operation, type Script, vm } from './cli.ts';
import { runIn } from './local-guest.ts';

interface Place {
  /** directory of the guest, by its absolute path */
  guest: string;
  /** this machine's working directory */
  here: string;
  /** what the daemon was asked, in order */
  asked: string[];
  requests: ExecRequest[];
  run(words: readonly string[], changes?: Partial<Script>, options?: CliOptions): ReturnType<typeof cli>;
}

/** A VM whose programs are this machine's, and a daemon that grants leases. */
async function place(t: TestContext): Promise<Place> {
  const dir = await tempDir(t);
  const [guest, here] = [join(dir, 'guest'), join(dir, 'here')];
  for (const each of [guest, here]) await mkdir(each);
  const asked: string[] = [];
  const requests: ExecRequest[] = [];
  const script: Script = {
    runVm: ({ params, body }) => {
      asked.push(`run ${params.name}${body.lease === undefined ? '' : ` under ${body.lease}`}`);
      return operation();
    },
    events: { op1: [done({ result: { ...vm('web'), created: false, started: false } })] },
    async *holdLease({ query }) {
      asked.push(`hold ${typeof query?.holder}`);
      yield { type: 'granted', lease: 'l1', name: 'run-1' };
      await new Promise(() => {});
    },
    endLease: ({ params }) => {
      asked.push(`end ${params.id}`);
      return { id: params.id };
    },
    exec: async (name, request) => {
      const [client, daemon] = duplexPair();
      // copies begin with a look at the paths
      if (request.argv[0] !== 'tar' && request.argv[0] !== 'mkdir' && request.argv[1] !== '-s') {
        asked.push(`exec ${name} ${request.argv.join(' ')}`);
        requests.push(request);
      }
      runIn(request.cwd ?? guest, [...request.argv], daemon);
      return client;
    },
  };
  return {
    ...{ guest, here, asked, requests },
    run: (words, changes = {}, options = {}) =>
      cli(
        ['run', ...words],
        { ...script, ...changes },
        { cwd: here, env: { PATH: process.env.PATH ?? '' }, ...options },
      ),
  };
}

const started = { op1: [done({ result: { ...vm('web'), created: true, started: true } })] };

describe('run with a command', () => {
  it('says nothing of its own about a VM that is up, and ends as the command does', async (t) => {
    const { run, asked } = await place(t);
    const ran = await run(['web', '--', 'sh', '-c', 'echo out; echo err >&2; exit 42']);
    assert.deepEqual(ran, { status: 42, stdout: 'out\n', stderr: 'err\n' });
    assert.deepEqual(asked, ['run web', 'exec web sh -c echo out; echo err >&2; exit 42']);
  });

  it('tells on standard error alone what it started, and nothing when it is to be quiet', async (t) => {
    const { run } = await place(t);
    const ran = await run(['web', '--', 'echo', 'out'], { events: started });
    assert.deepEqual([ran.status, ran.stdout], [0, 'out\n']);
    assert.match(ran.stderr, /^web is running at 172\.30\.0\.2 \(login after 6\.2 s, ready after 9\.1 s\)\n$/);
    assert.equal((await run(['-q', 'web', '--', 'echo', 'out'], { events: started })).stderr, '');
  });

  it('gives it variables, directory, no input or a terminal, and words as they are', async (t) => {
    const { run, guest, requests } = await place(t);
    await run(['web', '-n', '-e', 'A=1', '-e', 'B=x y', '--cwd', guest, '--', 'printf', '%s', '--', '--json']);
    assert.deepEqual(requests[0], {
      argv: ['printf', '%s', '--', '--json'],
      ...{ tty: false, env: { A: '1', B: 'x y' }, cwd: guest },
    });
    await run(['web', '--tty', '--until', 'reachable', '--', 'true']);
    assert.deepEqual([requests[1]?.tty, requests[1]?.until], [true, 'reachable']);
  });

  it('refuses what does not go together before anything is asked of the daemon', async (t) => {
    const { run, asked, here } = await place(t);
    await mkdir(join(here, 'full'));
    await writeFile(join(here, 'full/file'), '');
    const cases: [string[], number, RegExp][] = [
      [[], 2, /no name of a VM/],
      [['--rm'], 2, /no command to run[\s\S]*run --rm -- COMMAND/],
      [['--', 'true'], 2, /no name of a VM[\s\S]*--rm/],
      [['web', 'ls', '-la'], 2, /two dashes: banger run NAME -- COMMAND/],
      [['web', '--env', 'A'], 2, /sets no variable/],
      [['web', '--copy-in', '.'], 2, /--copy-in goes with a command/],
      [['web', '--json', '--', 'true'], 2, /--json/],
      [['--rm', '--autostart', '--', 'true'], 2, /--autostart is for VMs that stay/],
      [['--rm', '--restart', 'always', '--', 'true'], 2, /--restart is for VMs that stay/],
      [['web', '--overwrite', '--', 'true'], 2, /--overwrite is about --copy-out/],
      [['web', '--env', 'A', '--', 'true'], 2, /sets no variable/],
      [['web', '--copy-in', 'nosuch', '--', 'true'], 4, /no directory .*nosuch to copy in/],
      [['web', '--copy-in', 'full/file', '--', 'true'], 2, /--copy-in takes directories/],
      [['web', '--copy-in', ':x', '--', 'true'], 2, /names no directory/],
      [['web', '--copy-out', '/x/full', '--', 'true'], 5, /full exists already[\s\S]*--overwrite/],
      [['web', '--copy-out', '/x:no/such/place', '--', 'true'], 4, /no directory .*no\/such to copy into/],
      [['web', '--copy-out', '/x/a', '--copy-out', '/y/a', '--', 'true'], 2, /two of them go to/],
    ];
    for (const [words, status, says] of cases) {
      const ran = await run(words);
      assert.equal(ran.status, status, `${words}: ${ran.stderr}`);
      assert.match(ran.stderr, says, words.join(' '));
    }
    assert.deepEqual(asked, ['run web'], 'a variable is read when the command is to run');
    const ran = await run(['web', '--env', 'A=1', '--user', 'app']);
    assert.deepEqual(
      [ran.status, ran.stderr],
      [0, 'banger: warning: web exists already; --user, --env changes nothing\n'],
    );
  });
});

describe('run --rm', () => {
  it('is over when its terminal’s session is asked to end, and so is the VM', async (t) => {
    const { run, asked } = await place(t);
    const stdin = Object.assign(new PassThrough(), { isTTY: true, setRawMode: () => {} });
    let send: (signal: NodeJS.Signals) => void = () => {};
    const signals = (sender: typeof send) => {
      send = sender;
    };
    const exec: Script['exec'] = async () => {
      const [client, daemon] = duplexPair();
      daemon.resume();
      client.once('close', () => asked.push('hung up'));
      // it listens once the command has begun
      setTimeout(() => send('SIGTERM'), 20);
      return client;
    };
    const ran = await run(['--rm', '--', 'bash'], { exec }, { stdin, terminal: true, signals });
    assert.equal(ran.status, 143);
    assert.deepEqual(asked.slice(-2).sort(), ['end l1', 'hung up']);
  });

  it('holds a lease while the command runs and ends it afterwards, whatever happened', async (t) => {
    const { run, asked } = await place(t);
    assert.equal((await run(['--rm', '--', 'sh', '-c', 'exit 3'])).status, 3);
    assert.deepEqual(asked.splice(0), ['hold number', 'run run-1 under l1', 'exec run-1 sh -c exit 3', 'end l1']);
    const failed = { op1: [done({ state: 'failed', error: null })] };
    assert.equal((await run(['--rm', 'mine', '--', 'true'], { events: failed })).status, 1);
    assert.deepEqual(asked, ['hold number', 'run mine under l1', 'end l1']);
  });

  it('asks for nothing more when the daemon has ended and taken the VM with it', async (t) => {
    const { run, asked } = await place(t);
    async function* holdLease() {
      yield { type: 'granted', lease: 'l1', name: 'run-1' } as const;
      yield { type: 'ended' } as const;
    }
    const ran = await run(['--rm', '--', 'true'], { holdLease });
    assert.equal(ran.status, 0, ran.stderr);
    assert.deepEqual(
      asked.filter((what) => what.startsWith('end')),
      [],
    );
  });

  it('asks once more where a daemon that was just killed took the request with it', async (t) => {
    const { run, asked } = await place(t);
    let first = true;
    const endLease: Script['endLease'] = ({ params }) => {
      asked.push(`end ${params.id}`);
      if (!first) return { id: params.id };
      first = false;
      throw new BangerError('daemon_unreachable', 'The daemon ended before it answered.');
    };
    const ran = await run(['--rm', '--', 'sh', '-c', 'exit 9'], { endLease });
    assert.deepEqual([ran.status, ran.stderr], [9, '']);
    assert.deepEqual(asked.slice(-2), ['end l1', 'end l1']);
  });

  it('ends with the status of the command also when the VM cannot be deleted, and says so', async (t) => {
    const { run } = await place(t);
    const endLease = () => {
      throw new Error('wedged');
    };
    const ran = await run(['--rm', '--', 'sh', '-c', 'exit 9'], { endLease });
    assert.equal(ran.status, 9);
    assert.match(ran.stderr, /wedged/);
  });
});

describe('what run copies', () => {
  it('goes in with times, modes and links, and the command runs there', async (t) => {
    const { run, guest, here, requests } = await place(t);
    await mkdir(join(here, 'tree/sub'), { recursive: true });
    await writeFile(join(here, 'tree/sub/script'), 'x');
    await chmod(join(here, 'tree/sub/script'), 0o750);
    await utimes(join(here, 'tree/sub/script'), 1000, 1000);
    await symlink('sub', join(here, 'tree/link'));
    const to = join(guest, 'deep/place');
    const ran = await run(['web', '--copy-in', `tree:${to}`, '--', 'pwd']);
    assert.deepEqual([ran.status, ran.stdout], [0, `${to}\n`], ran.stderr);
    const { mode, mtimeMs } = await stat(join(to, 'sub/script'));
    assert.deepEqual([mode & 0o777, mtimeMs], [0o750, 1_000_000]);
    assert.equal(await readlink(join(to, 'link')), 'sub');
    await run(['web', '--copy-in', `tree:${to}`, '-C', guest, '--', 'true']);
    assert.equal(requests.at(-1)?.cwd, guest);
  });

  it('comes back also when the command failed, whose status counts', async (t) => {
    const { run, guest, here } = await place(t);
    const make = 'mkdir -p out && echo made > out/file && ln -s file out/link && echo one > single; exit 7';
    const outs = ['--copy-out', `${guest}/out`, '--copy-out', `${guest}/single:other name`];
    const ran = await run(['web', ...outs, '-C', guest, '--', 'sh', '-c', make]);
    assert.equal(ran.status, 7, ran.stderr);
    assert.equal(await readFile(join(here, 'out/file'), 'utf8'), 'made\n');
    assert.equal(await readlink(join(here, 'out/link')), 'file');
    assert.equal(await readFile(join(here, 'other name'), 'utf8'), 'one\n');
    assert.deepEqual((await readdir(here)).sort(), ['other name', 'out']);
  });

  it('begins at the directory the command ran in, and is told when it is not there', async (t) => {
    const { run, guest, here } = await place(t);
    const ran = await run(['web', '-C', guest, '--copy-out', 'nosuch', '--copy-out', 'out', '--', 'mkdir', 'out']);
    assert.equal(ran.status, 4);
    assert.match(ran.stderr, /There is no web:.*\/guest\/nosuch to copy out/);
    assert.deepEqual(await readdir(here), ['out'], 'the other one came all the same');
  });

  it('writes over nothing here, also what came meanwhile; with --overwrite files only, and never through links', async (t) => {
    const { run, guest, here } = await place(t);
    await mkdir(join(guest, 'out/sub'), { recursive: true });
    await writeFile(join(guest, 'out/sub/file'), 'guest');
    const words = ['web', '-C', guest, '--copy-out', 'out'];
    const late = await run([...words, '--', 'sh', '-c', `mkdir ${here}/out; echo mine > ${here}/out/mine`]);
    assert.equal(late.status, 5, late.stderr);
    assert.deepEqual(await readdir(join(here, 'out')), ['mine']);

    const merged = await run([...words, '--overwrite', '--', 'true']);
    assert.equal(merged.status, 0, merged.stderr);
    assert.deepEqual((await readdir(join(here, 'out'))).sort(), ['mine', 'sub']);

    await mkdir(join(here, 'elsewhere'));
    await mkdir(join(here, 'linked'));
    await symlink(join(here, 'elsewhere'), join(here, 'linked/sub'));
    const linked = await run(['web', '-C', guest, '--copy-out', 'out:linked', '--overwrite', '--', 'true']);
    assert.equal(linked.status, 5, linked.stderr);
    assert.deepEqual(await readdir(join(here, 'elsewhere')), []);
    assert.deepEqual((await readdir(here)).sort(), ['elsewhere', 'linked', 'out'], 'nothing of its own is left');
  });

  it('leaves nothing here when Ctrl-C comes in the middle', async (t) => {
    const { run, guest, here, asked } = await place(t);
    await writeFile(join(guest, 'pipe'), '');
    const { promise: copying, resolve: copies } = Promise.withResolvers<void>();
    let send: (signal: NodeJS.Signals) => void = () => {};
    const exec: Script['exec'] = async (_name, request) => {
      const [client, daemon] = duplexPair();
      if (request.argv[0] === 'tar') {
        // the daemon ends what a client leaves
        client.once('close', () => daemon.destroy());
        copies();
        runIn(guest, ['sleep', '60'], daemon);
      } else runIn(guest, [...request.argv], daemon);
      return client;
    };
    const signals = (sender: typeof send) => {
      send = sender;
    };
    void copying.then(() => send('SIGINT'));
    const ran = await run(['--rm', '--copy-out', `${guest}/pipe`, '--', 'true'], { exec }, { signals });
    assert.match(ran.stderr, /interrupted/);
    assert.notEqual(ran.status, 0);
    assert.deepEqual(await readdir(here), []);
    assert.equal(asked.at(-1), 'end l1');
  });
});
