/** What comes out of a guest, and where it lands on this machine. */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import {
  chmod,
  link,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { encodeFrame, FRAME } from '../../src/api/exec-frames.ts';
import type { ExecRequest } from '../../src/api/vm.ts';
import { type CliOptions, type CliResult, cli, done, operation, vm } from './cli.ts';
import { runIn } from './local-guest.ts';

const TEXT = { encoding: 'utf8' } as const;
const run = promisify(execFile);
const text = (path: string) => readFile(path, 'utf8');

/** Makes directories (`null`), links (`-> TARGET`) and files. */
async function plant(base: string, tree: Record<string, string | null>): Promise<void> {
  for (const [name, content] of Object.entries(tree)) {
    const path = join(base, name);
    await mkdir(content === null ? path : join(path, '..'), { recursive: true });
    if (content === null) continue;
    if (content.startsWith('-> ')) await symlink(content.slice(3), path);
    else await writeFile(path, content);
  }
}

interface Place {
  dir: string;
  /** where /root of the VM is */
  guest: string;
  /** this machine's working directory */
  here: string;
  banger(words: readonly string[], options?: CliOptions): Promise<CliResult>;
}

/** What a guest does instead of what it was asked to; undefined for what it was asked to. */
type Lie = (request: ExecRequest) => { answers: string } | { runs: string } | undefined;

/** A VM that is a directory of this machine; its programs are this machine's, or what it has instead of them. */
async function place(t: TestContext, lie: Lie = () => undefined): Promise<Place> {
  const dir = await mkdtemp(join(tmpdir(), 'banger-test-'));
  t.after(async () => {
    await run('chmod', ['-R', 'u+w', dir]); // also what a test leaves read-only
    await rm(dir, { recursive: true });
  });
  const [guest, here] = [join(dir, 'guest'), join(dir, 'here')];
  for (const each of [guest, here]) await mkdir(each);
  const exec = async (_name: string, request: ExecRequest) => {
    const [client, daemon] = duplexPair();
    // the daemon ends what a client leaves
    client.once('close', () => daemon.destroy());
    const lied = lie(request);
    if (lied && 'answers' in lied) {
      daemon.resume();
      daemon.write(encodeFrame(FRAME.stdout, Buffer.from(lied.answers)));
      daemon.end(encodeFrame(FRAME.exit, JSON.stringify({ code: 0, signal: null })));
    } else runIn(request.cwd ?? guest, lied ? ['sh', '-c', lied.runs] : [...request.argv], daemon);
    return client;
  };
  const script = {
    runVm: () => operation(),
    events: { op1: [done({ result: { ...vm('web'), created: false, started: false } })] },
    exec,
  };
  const env = { PATH: process.env.PATH ?? '' };
  return { dir, guest, here, banger: (words, options = {}) => cli(words, script, { cwd: here, env, ...options }) };
}

const isLook = ({ argv }: ExecRequest) => argv[1] === '-s';
const isPack = ({ argv }: ExecRequest) => argv[0] === 'tar' && argv[1] === '-c';

describe('what a hostile guest sends', () => {
  it('goes through no link that an earlier copy of a directory has left', async (t) => {
    const packs = ['tar -c -C 1 -f - .', 'tar -c -C 2 -f - ./x/authorized_keys'];
    const { guest, here, dir, banger } = await place(t, (request) => {
      const runs = isPack(request) ? packs.shift() : undefined;
      return runs === undefined ? undefined : { runs };
    });
    const victim = join(dir, 'ssh');
    await mkdir(victim);
    await plant(guest, { logs: null, '1/x': `-> ${victim}`, '2/x/authorized_keys': 'evil' });
    for (const round of [1, 2]) {
      const ran = await banger(['cp', '-r', 'web:logs', '.']);
      assert.equal(ran.status, 0, `${round}: ${ran.stderr}`);
    }
    assert.deepEqual(await readdir(victim), []);
    assert.equal(await text(join(here, 'logs/x/authorized_keys')), 'evil', 'what came stands in the place of the link');
    assert.deepEqual(await readdir(here), ['logs']);
  });

  it('is no link where a file was asked for', async (t) => {
    const { guest, here, banger } = await place(t, (request) =>
      isPack(request) ? { runs: 'tar -c -C 1 -f - ./report' } : undefined,
    );
    await plant(guest, { report: 'good', '1/report': '-> /etc' });
    for (const words of [
      ['cp', 'web:report', '.'],
      ['run', 'web', '--copy-out', `${guest}/report`, '--', 'true'],
    ]) {
      const ran = await banger(words);
      assert.equal(ran.status, 1, ran.stderr);
      assert.match(ran.stderr, /What the guest sent as .*report is no regular file/);
      assert.deepEqual(await readdir(here), []);
    }
  });

  it('has the name that was asked for, whatever the guest calls it, and takes the place of a link', async (t) => {
    const { guest, here, dir, banger } = await place(t, (request) =>
      isLook(request) ? { answers: 'file\0/root/authorized_keys\0gnu' } : undefined,
    );
    const victim = join(dir, 'ssh');
    await mkdir(victim);
    await plant(guest, { report: 'good', authorized_keys: 'evil' });
    await plant(here, { report: `-> ${victim}` });
    const ran = await banger(['cp', 'web:report', '.']);
    assert.equal(ran.status, 0, ran.stderr);
    assert.deepEqual([await readdir(victim), await readdir(here)], [[], ['report']]);
    assert.ok((await lstat(join(here, 'report'))).isFile());
    assert.equal(await text(join(here, 'report')), 'good');
  });

  it('is not looked for above where it was unpacked', async (t) => {
    const { guest, here, banger } = await place(t, (request) =>
      isLook(request) ? { answers: `directory\0${request.argv[3]}/..\0gnu` } : undefined,
    );
    await plant(guest, { 'out/file': 'new' });
    const own = { 'out/old': '', '.git/HEAD': 'ref', '.env': 'secret', Makefile: 'all:', 'zebra/z': '' };
    await plant(here, own);
    const ran = await banger(['run', 'web', '-C', guest, '--copy-out', 'out', '--overwrite', '--', 'true']);
    assert.equal(ran.status, 0, ran.stderr);
    assert.deepEqual((await readdir(here)).sort(), ['.env', '.git', 'Makefile', 'out', 'zebra']);
    assert.deepEqual((await readdir(join(here, 'out'))).sort(), ['file', 'old']);
  });

  it('is refused where a path that is never a file is said to be one, or something else is said at all', async (t) => {
    let kind = 'file';
    const { here, guest, banger } = await place(t, (request) =>
      isLook(request) ? { answers: `${kind}\0/root/x\0gnu` } : undefined,
    );
    await plant(here, { own: 'mine' });
    for (const words of [
      ['cp', 'web:sub/..', './new'],
      ['cp', 'web:', './new'],
      ['cp', 'web:/', './new'],
    ]) {
      const ran = await banger(words);
      assert.equal(ran.status, 1, ran.stderr);
      assert.match(ran.stderr, /is said to be a file, which cannot be/);
    }
    kind = 'door';
    for (const words of [
      ['cp', 'web:x', '.'],
      ['run', 'web', '--copy-out', `${guest}/x`, '--', 'true'],
    ]) {
      const ran = await banger(words);
      assert.equal(ran.status, 4, ran.stderr);
    }
    assert.deepEqual(await readdir(here), ['own']);
  });

  it('is said to be missing when something else came, which leaves nothing here', async (t) => {
    // its path from here is longer than any call takes
    const deep = `${'x'.repeat(101)}/`.repeat(40);
    const pack = `tar -c --format=posix --transform 's,^./,./${deep},' -f - ./other`;
    const { guest, here, banger } = await place(t, (request) => (isPack(request) ? { runs: pack } : undefined));
    await plant(guest, { report: 'good', other: 'evil' });
    const ran = await banger(['cp', 'web:report', '.']);
    assert.equal(ran.status, 1, ran.stderr);
    assert.match(ran.stderr, /^banger: The guest did not send web:report\.\n.*\n$/);
    assert.deepEqual(await readdir(here), []);
  });
});

describe('a copy onto what is there', () => {
  it('replaces files and links, becomes one with directories, and leaves everything else', async (t) => {
    const { dir, guest, here, banger } = await place(t);
    await plant(guest, {
      'tree/file': 'new',
      'tree/was a link': 'new',
      'tree/was a link to a directory/in': 'new',
      'tree/was a file/in': 'new',
      'tree/was an empty directory': 'new',
      'tree/link': '-> new',
      'tree/both/in': 'new',
    });
    await plant(dir, { 'elsewhere/file': 'mine' });
    await plant(here, {
      'tree/file': 'old',
      'tree/was a link': `-> ${dir}/elsewhere/file`,
      'tree/was a link to a directory': `-> ${dir}/elsewhere`,
      'tree/was a file': 'old',
      'tree/was an empty directory': null,
      'tree/link': '-> old',
      'tree/both/mine': 'mine',
      'tree/mine': 'mine',
    });
    await chmod(join(here, 'tree/both'), 0o750);
    const ran = await banger(['cp', '-r', 'web:tree', '.']);
    assert.equal(ran.status, 0, ran.stderr);
    for (const name of ['file', 'was a link', 'was a link to a directory/in', 'was a file/in', 'both/in']) {
      assert.equal(await text(join(here, 'tree', name)), 'new', name);
    }
    assert.equal(await text(join(here, 'tree/was an empty directory')), 'new');
    assert.equal(await readlink(join(here, 'tree/link')), 'new');
    assert.equal(await text(join(here, 'tree/both/mine')), 'mine');
    assert.equal(
      (await stat(join(here, 'tree/both'))).mode & 0o777,
      0o750,
      'directories that are there stay as they are',
    );
    assert.deepEqual(await readdir(join(dir, 'elsewhere')), ['file']);
    assert.equal(await text(join(dir, 'elsewhere/file')), 'mine');
    assert.equal((await readdir(join(here, 'tree'))).length, 8, 'nothing else is left');
  });

  it('names what it cannot replace', async (t) => {
    const { guest, here, banger } = await place(t);
    await plant(guest, { 'tree/sub': 'file', logs: null, note: 'new' });
    await plant(here, { 'tree/sub/mine': 'mine', logs: 'a file', note: null });
    const ran = await banger(['cp', '-r', 'web:tree', '.']);
    assert.equal(ran.status, 5, ran.stderr);
    assert.match(ran.stderr, /here\/tree\/sub is a directory and cannot be replaced/);
    assert.deepEqual(await readdir(join(here, 'tree')), ['sub'], 'nothing of its own is left');
    assert.equal(await text(join(here, 'tree/sub/mine')), 'mine');
    for (const target of ['.', 'logs']) {
      const directory = await banger(['cp', '-r', 'web:logs', target]);
      assert.equal(directory.status, 5, directory.stderr);
    }
    assert.equal(await text(join(here, 'logs')), 'a file');
    const file = await banger(['cp', 'web:note', '.']);
    assert.equal(file.status, 5, file.stderr);
    assert.match(file.stderr, /here\/note is a directory; a file cannot take its place/);
  });

  it('goes through links that are named, and through no others', async (t) => {
    const { dir, guest, here, banger } = await place(t);
    await plant(guest, { 'logs/new': 'new', note: 'new' });
    await plant(dir, { 'large/file': 'old' });
    await plant(here, { link: `-> ${dir}/large`, file: `-> ${dir}/large/file`, 'sub/logs': `-> ${dir}/large` });
    for (const words of [
      ['cp', '-r', 'web:logs', './link'],
      ['cp', '-r', 'web:logs/.', 'link/'],
      ['cp', 'web:note', './link/'],
      ['cp', 'web:note', 'file'],
    ]) {
      const ran = await banger(words);
      assert.equal(ran.status, 0, `${words}: ${ran.stderr}`);
    }
    for (const name of ['logs/new', 'new', 'note', 'file']) assert.equal(await text(join(dir, 'large', name)), 'new');
    for (const name of ['link', 'file']) assert.ok((await lstat(join(here, name))).isSymbolicLink());

    const ran = await banger(['cp', '-r', 'web:logs', 'sub']);
    assert.equal(ran.status, 5, ran.stderr);
    const [, hint = ''] = /name it: banger (.*)/.exec(ran.stderr) ?? [];
    await rm(join(dir, 'large/new'));
    const named = await banger(hint.split(' '));
    assert.equal(named.status, 0, named.stderr);
    assert.equal(await text(join(dir, 'large/new')), 'new');
  });

  it('keeps hard links, times and modes of what is new', async (t) => {
    const { guest, here, banger } = await place(t);
    await plant(guest, { 'tree/sub/one': 'x' });
    await link(join(guest, 'tree/sub/one'), join(guest, 'tree/two'));
    await chmod(join(guest, 'tree/sub/one'), 0o751);
    await chmod(join(guest, 'tree/sub'), 0o710);
    await chmod(join(guest, 'tree'), 0o700);
    for (const path of ['tree/sub/one', 'tree/sub', 'tree']) await utimes(join(guest, path), 1000, 1000);
    await plant(here, { 'tree/mine': 'mine' });
    for (const [words, name] of [
      [['cp', '-rp', 'web:tree', '.'], 'tree'],
      [['run', 'web', '--copy-out', `${guest}/tree:out`, '--', 'true'], 'out'],
    ] as const) {
      const ran = await banger(words);
      assert.equal(ran.status, 0, ran.stderr);
      const [one, two] = [await stat(join(here, name, 'sub/one')), await stat(join(here, name, 'two'))];
      assert.equal(one.ino, two.ino);
      assert.deepEqual([one.mode & 0o777, one.mtimeMs], [0o751, 1_000_000]);
      const sub = await stat(join(here, name, 'sub'));
      assert.deepEqual([sub.mode & 0o777, sub.mtimeMs], [0o710, 1_000_000]);
    }
    const out = await stat(join(here, 'out'));
    assert.deepEqual([out.mode & 0o777, out.mtimeMs], [0o700, 1_000_000]);
  });

  it('ends on another file system where one is mounted in the target', {
    skip: process.getuid?.() !== 0 && 'needs root',
  }, async (t) => {
    const { guest, here, banger } = await place(t);
    await plant(guest, { 'tree/mounted/file': 'new', 'tree/mounted/sub/file': 'new' });
    await chmod(join(guest, 'tree/mounted/sub'), 0o555);
    await plant(here, { 'tree/mounted': null });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', join(here, 'tree/mounted')]);
    try {
      const ran = await banger(['cp', '-r', 'web:tree', '.']);
      assert.equal(ran.status, 0, ran.stderr);
      assert.deepEqual((await readdir(join(here, 'tree/mounted'))).sort(), ['file', 'sub']);
      assert.equal(await text(join(here, 'tree/mounted/sub/file')), 'new');
      assert.equal((await stat(join(here, 'tree/mounted/sub'))).mode & 0o777, 0o555);
      assert.deepEqual(await readdir(join(here, 'tree')), ['mounted']);
    } finally {
      execFileSync('umount', [join(here, 'tree/mounted')]);
    }
  });

  it('is refused within its source', async (t) => {
    const { guest, here, banger } = await place(t);
    await plant(guest, { note: 'new' });
    await plant(here, { 'tree/file': 'mine' });
    for (const target of ['.', 'tree']) {
      const ran = await banger(['cp', '-r', 'tree', 'web:note', target]);
      assert.equal(ran.status, 2, ran.stderr);
      assert.match(ran.stderr, /tree cannot be copied into itself/);
    }
    assert.equal(await text(join(here, 'tree/file')), 'mine');
    assert.equal(await text(join(here, 'note')), 'new', 'the other one came all the same');
  });
});

describe('a copy that Ctrl-C ends', () => {
  /** Runs it until what is on its way is there. */
  async function interrupted(words: string[], { banger }: Place, onItsWay: () => boolean): Promise<CliResult> {
    return await banger(words, {
      signals: async (send) => {
        while (!onItsWay()) await new Promise((resolve) => setTimeout(resolve, 10));
        send('SIGINT');
      },
    });
  }

  it('leaves nothing here', async (t) => {
    const there = await place(t, (request) =>
      isPack(request) ? { runs: 'tar -c -f - . | head -c 40960; exec sleep 60' } : undefined,
    );
    await plant(there.guest, { note: 'x'.repeat(100_000) });
    await plant(there.guest, { 'tree/file': 'x' });
    await plant(there.here, { 'tree/mine': 'mine' });
    for (const words of [
      ['cp', '-r', 'web:tree', '.'],
      ['cp', '-r', 'web:tree', 'web:note', './tree'],
      ['cp', 'web:note', './new'],
    ]) {
      const places = [there.here, join(there.here, 'tree')];
      const isThere = () => execFileSync('find', [...places, '-path', '*/.banger-copy-*/*/*'], TEXT) !== '';
      const ran = await interrupted(words, there, isThere);
      assert.equal(ran.status, 130, `${words}: ${ran.stderr}`);
      assert.match(ran.stderr, /^banger: The copy was interrupted; nothing half-made is left here\.\n$/);
      assert.deepEqual([await readdir(there.here), await readdir(join(there.here, 'tree'))], [['tree'], ['mine']]);
    }
  });

  it('leaves no half file in a guest', async (t) => {
    const there = await place(t, ({ argv }) =>
      argv[0] === 'tar' && argv[1] === '-x' ? { runs: 'cd .banger-cp-*; touch half; exec sleep 60' } : undefined,
    );
    await plant(there.here, { note: 'x' });
    const half = () => execFileSync('find', [there.guest, '-name', 'half'], TEXT) !== '';
    const ran = await interrupted(['cp', 'note', 'web:'], there, half);
    assert.equal(ran.status, 130, ran.stderr);
    assert.deepEqual(await readdir(there.guest), []);
  });
});

describe('copies of an ordinary user', () => {
  /** Command lines run one after another by somebody to whom all in the directory belongs. */
  async function asUser({ dir, guest, here }: Place, ...lines: (readonly string[])[]): Promise<CliResult[]> {
    if (process.getuid?.() === 0) await run('chown', ['-R', '65534:65534', dir]);
    const program = join(import.meta.dirname, 'ordinary-copies.ts');
    const { stdout } = await run(process.execPath, [program, JSON.stringify({ lines, guest, here })], { cwd: here });
    return JSON.parse(stdout) as CliResult[];
  }

  async function plantReadOnly({ guest }: Place): Promise<void> {
    await plant(guest, { 'tree/sub/deep/file': 'new', 'tree/open/file': 'new' });
    for (const path of ['tree/sub/deep/file', 'tree/sub/deep', 'tree/sub', 'tree']) {
      await chmod(join(guest, path), path.endsWith('file') ? 0o444 : 0o555);
    }
  }

  it('bring out what is read-only, and leave it so', async (t) => {
    const there = await place(t);
    await plantReadOnly(there);
    const { guest, here } = there;
    await plant(here, { 'merged/tree/mine': '', 'over/mine': '' });
    const out = (...words: string[]) => ['run', 'web', '--copy-out', ...words, '--', 'true'];
    const cases = [
      [['cp', '-r', 'web:tree', '.'], 'tree', []],
      [['cp', '-rp', 'web:tree', 'kept'], 'kept', []],
      [['cp', '-r', 'web:tree', 'merged'], 'merged/tree', ['mine']],
      [out(`${guest}/tree:out`), 'out', []],
      [out(`${guest}/tree:over`, '--overwrite'), 'over', ['mine']],
    ] as const;
    const ended = await asUser(there, ...cases.map(([words]) => words));
    assert.deepEqual(
      new Set(ended.map((ran) => JSON.stringify(ran))),
      new Set(['{"status":0,"stdout":"","stderr":""}']),
    );
    for (const [, to, own] of cases) {
      assert.deepEqual((await readdir(join(here, to))).sort(), [...own, 'open', 'sub']);
      assert.equal(await text(join(here, to, 'sub/deep/file')), 'new');
      for (const path of ['sub', 'sub/deep']) {
        assert.equal((await stat(join(here, to, path))).mode & 0o7777, 0o555, `${to}/${path}`);
      }
    }
    assert.equal((await stat(join(here, 'out'))).mode & 0o7777, 0o555);
    assert.deepEqual((await readdir(here)).sort(), ['kept', 'merged', 'out', 'over', 'tree']);
    assert.deepEqual(await readdir(join(here, 'merged')), ['tree']);
  });

  it('leave nothing of what is read-only when they fail, and say why', async (t) => {
    const there = await place(t);
    await plantReadOnly(there);
    const { guest, here } = there;
    await plant(here, { 'full/sub': 'a file', 'shut/sub/mine': '' });
    await chmod(join(here, 'shut/sub'), 0o555);
    const [full, shut] = await asUser(
      there,
      ['run', 'web', '--copy-out', `${guest}/tree:full`, '--overwrite', '--', 'true'],
      ['cp', '-r', 'web:tree/.', 'shut'],
    );
    assert.equal(full?.status, 5);
    assert.match(full?.stderr ?? '', /^banger: \S+full\/sub is no directory and cannot be replaced\.\n.*\n$/);
    assert.equal(shut?.status, 6);
    assert.match(
      shut?.stderr ?? '',
      /^banger: Nothing can be put into \S+shut\/sub: this user may not write .*\n.*\n$/,
    );
    await chmod(here, 0o555);
    const closed = await asUser(
      there,
      ['cp', '-r', 'web:tree', '.'],
      ['run', 'web', '--copy-out', `${guest}/tree`, '--', 'true'],
    );
    for (const ran of closed) {
      assert.equal(ran.status, 6, ran.stderr);
      assert.match(ran.stderr, /^banger: Nothing can be put into \S+here: this user may not write there\.\n.*ls -ld/);
    }
    assert.equal(execFileSync('find', [here, '-name', '.banger-*'], TEXT), '');
  });

  it('need no right to write above a directory that is there', async (t) => {
    const there = await place(t);
    const { guest, here } = there;
    await plant(guest, { 'tree/sub/file': 'new', note: 'new' });
    await plant(here, { 'above/inner/mine': '' });
    await chmod(join(here, 'above'), 0o555);
    const ended = await asUser(
      there,
      ['cp', '-r', 'web:tree/.', 'above/inner'],
      ['cp', '-r', 'web:tree', 'above/inner'],
      ['cp', 'web:note', 'above/inner'],
      ['run', 'web', '--copy-out', `${guest}/tree:above/inner`, '--overwrite', '--', 'true'],
    );
    for (const ran of ended) assert.equal(ran.status, 0, ran.stderr);
    assert.deepEqual((await readdir(join(here, 'above/inner'))).sort(), ['mine', 'note', 'sub', 'tree']);
  });
});
