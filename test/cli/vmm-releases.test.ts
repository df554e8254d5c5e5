import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, readdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { findProgram, kernelArch } from '../../src/system/host-facts.ts';
import { tempDir } from '../support/temp-dir.ts';
import { cli } from './cli.ts';

const arch = kernelArch(process.arch);
const nameOf = (version: string) => `firecracker-v${version}-${arch}.tgz`;

/** Bytes of a file, 0 when there is none. */
async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0;
}

interface ReleaseOptions {
  /** what its firecracker says instead of its version */
  says?: string;
  /** makes the tree something else before it is packed */
  spoil?: (top: string) => Promise<unknown>;
}

/** A server with releases, a home for banger, and nothing but tar in PATH. */
async function setUp(t: TestContext) {
  const dir = await tempDir(t);
  const served = join(dir, 'served');
  const bin = join(dir, 'bin');
  const home = join(dir, 'home');
  for (const each of [served, bin, home]) await mkdir(each);
  const tar = await findProgram('tar', process.env);
  assert.ok(tar.found);
  await symlink(tar.path, join(bin, 'tar'));
  const asked: string[] = [];
  const server = createServer(async (request, response) => {
    asked.push(request.url ?? '');
    const content = await readFile(join(served, request.url?.split('/').at(-1) ?? '')).catch(() => undefined);
    response.statusCode = content === undefined ? 404 : 200;
    response.end(content);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/releases`;
  const env: NodeJS.ProcessEnv = { PATH: bin, BANGER_HOME: home, BANGER_RELEASES_FIRECRACKER: url };
  return {
    dir,
    served,
    bin,
    env,
    asked,
    url,
    store: join(home, 'state', 'vmm'),
    banger: (line: string, more: NodeJS.ProcessEnv = {}) => cli(line, {}, { env: { ...env, ...more }, cwd: served }),
    async release(version: string, { says = version, spoil = async () => {} }: ReleaseOptions = {}) {
      const top = join(dir, `release-v${version}-${arch}`);
      await mkdir(top);
      for (const program of ['firecracker', 'jailer']) {
        const file = join(top, `${program}-v${version}-${arch}`);
        await writeFile(file, `#!/bin/sh\necho 'Firecracker v${says}'\n`);
        await chmod(file, 0o755);
      }
      await spoil(top);
      const archive = join(served, nameOf(version));
      execFileSync(tar.path, [
        '--create',
        '--gzip',
        '--file',
        archive,
        '--directory',
        dir,
        `release-v${version}-${arch}`,
      ]);
      const sum = createHash('sha256')
        .update(await readFile(archive))
        .digest('hex');
      await writeFile(`${archive}.sha256.txt`, `${sum}  ${nameOf(version)}\n`);
      return archive;
    },
  };
}

describe('vmm install', () => {
  it('fetches a release, compares it and puts both programs where VMs are started from', async (t) => {
    const { banger, release, store, asked } = await setUp(t);
    await release('1.16.1');
    const { status, stdout, stderr } = await banger('vmm install');
    assert.deepEqual([status, stdout], [0, `Firecracker 1.16.1 is ready in ${store}/1.16.1\n`], stderr);
    const file = `/releases/v1.16.1/${nameOf('1.16.1')}`;
    assert.deepEqual(asked, [`${file}.sha256.txt`, file]);
    assert.deepEqual(await readdir(store), ['1.16.1', 'current']);
    assert.deepEqual(await readdir(join(store, '1.16.1')), ['firecracker', 'jailer']);
    assert.equal(
      execFileSync(join(store, 'current', 'firecracker'), ['--version'], { encoding: 'utf8' }),
      'Firecracker v1.16.1\n',
    );
  });

  it('chooses one that is there already without fetching it again', async (t) => {
    const { banger, release, store, asked } = await setUp(t);
    for (const version of ['1.13.1', '1.16.1']) {
      await release(version);
      await banger(`vmm install v${version}`);
    }
    asked.length = 0;
    assert.match((await banger('vmm install 1.13.1')).stdout, /^Firecracker 1\.13\.1 is there already in /);
    assert.deepEqual([asked, await readlink(join(store, 'current'))], [[], '1.13.1']);
  });

  it('installs from a file with its checksum beside it', async (t) => {
    const { banger, release, store, asked, served } = await setUp(t);
    await release('1.14.0');
    const sums = join(served, `${nameOf('1.14.0')}.sha256.txt`);
    await writeFile(sums, (await readFile(sums, 'utf8')).slice(0, 64)); // the sum alone is enough
    const { status, stderr } = await banger(`vmm install --from ${nameOf('1.14.0')}`);
    assert.deepEqual([status, asked, await readlink(join(store, 'current'))], [0, [], '1.14.0'], stderr);
  });

  const spoilt: [what: string, options: ReleaseOptions, message: RegExp][] = [
    ['says another version', { says: '1.2.3' }, /of release 1\.16\.1 says that it is "Firecracker v1\.2\.3"/],
    [
      'leads out',
      { spoil: (top) => symlink('/etc/passwd', join(top, 'x')) },
      /is a link to \/etc\/passwd, outside the release/,
    ],
    ['has no jailer', { spoil: (top) => rm(join(top, `jailer-v1.16.1-${arch}`)) }, /holds no jailer-v1\.16\.1/],
    [
      'does not run',
      { spoil: (top) => writeFile(join(top, `firecracker-v1.16.1-${arch}`), '#!/bin/sh\nexit 1\n') },
      /does not run here/,
    ],
  ];
  for (const [what, options, message] of spoilt) {
    it(`leaves nothing of a release that ${what}`, async (t) => {
      const { banger, release, store } = await setUp(t);
      await release('1.16.1', options);
      const { status, stderr } = await banger('vmm install');
      assert.equal(status, 1, stderr);
      assert.match(stderr, message);
      assert.deepEqual(await readdir(store), []);
    });
  }

  it('leaves nothing of an archive that is not what the release says', async (t) => {
    const { banger, release, store } = await setUp(t);
    const archive = await release('1.16.1');
    await writeFile(archive, 'cut short');
    const { status, stderr } = await banger('vmm install');
    assert.deepEqual([status, await readdir(store)], [1, []]);
    assert.match(stderr, /has the checksum [0-9a-f]{64}; the release says [0-9a-f]{64}\.\n.*Nothing was installed/);
    await writeFile(`${archive}.sha256.txt`, `${'0'.repeat(64)}  another.tgz\n`);
    assert.match((await banger(`vmm install --from ${archive}`)).stderr, /holds no SHA-256 checksum of firecracker-v1/);
  });

  it('says how to get it by hand where there is no network, and that there is no such release', async (t) => {
    const { banger, url } = await setUp(t);
    const closed = { BANGER_RELEASES_FIRECRACKER: 'http://127.0.0.1:1' };
    const offline = await banger('vmm install', closed);
    assert.equal(offline.status, 6);
    assert.match(
      offline.stderr,
      /cannot be fetched: .*\n.*curl -LO .* -LO .*sha256\.txt {3}then here: banger vmm install --from/,
    );
    const missing = await banger('vmm install 1.99.0');
    assert.equal(missing.status, 4);
    assert.ok(missing.stderr.includes(`There is no ${url}/v1.99.0/${nameOf('1.99.0')}.sha256.txt.`), missing.stderr);
    assert.equal((await banger('vmm install ../../x')).status, 2);
    const unnamed = await banger('vmm install --from /some/release.tgz');
    assert.equal(unnamed.status, 2);
    assert.match(unnamed.stderr, /banger vmm install VERSION --from \/some\/release\.tgz/);
  });

  it('counts for nothing when it is killed while it fetches, and the next one works', async (t) => {
    const { banger, release, store, env } = await setUp(t);
    const path = await release('1.16.1');
    const archive = await readFile(path);
    const sums = await readFile(`${path}.sha256.txt`);
    const half = createServer((request, response) => {
      if (request.url?.endsWith('.txt')) return void response.end(sums);
      response.writeHead(200, { 'content-length': archive.length });
      response.write(archive.subarray(0, 100));
    });
    half.listen(0, '127.0.0.1');
    await once(half, 'listening');
    t.after(() => {
      half.closeAllConnections();
      half.close();
    });
    const url = `http://127.0.0.1:${(half.address() as AddressInfo).port}`;
    const program = join(import.meta.dirname, '../../bin/banger.ts');
    const child = spawn(process.execPath, [program, 'vmm', 'install'], {
      env: { ...env, BANGER_RELEASES_FIRECRACKER: url },
      stdio: 'ignore',
    });
    const ended = once(child, 'exit');
    t.after(() => child.kill('SIGKILL'));
    for (let seen = 0; seen < 100; await sleep(20)) {
      assert.equal(child.exitCode, null);
      const [work = ''] = await readdir(store).catch(() => []);
      seen = await sizeOf(join(store, work, nameOf('1.16.1')));
    }
    child.kill('SIGKILL');
    await ended;
    assert.equal(JSON.parse((await banger('vmm list --json')).stdout).length, 0);
    assert.equal((await banger('vmm install')).status, 0);
    assert.deepEqual(await readdir(store), ['1.16.1', 'current']);
  });

  it('takes away what one that was killed has left, and nothing of one that works', async (t) => {
    const { banger, release, store } = await setUp(t);
    const gone = spawn('true');
    await once(gone, 'exit');
    await mkdir(join(store, `.new-${gone.pid}-abc`, 'unpacked'), { recursive: true });
    await mkdir(join(store, `.new-${process.ppid}-abc`));
    await release('1.16.1');
    await banger('vmm install');
    assert.deepEqual(await readdir(store), [`.new-${process.ppid}-abc`, '1.16.1', 'current']);
  });
});

describe('vmm list and remove', () => {
  it('show each Firecracker, and which one is used', async (t) => {
    const { banger, release, store, bin } = await setUp(t);
    assert.match((await banger('vmm list')).stderr, /There is no Firecracker\. Get it with: banger vmm install/);
    for (const version of ['1.9.0', '1.16.1', '1.13.1']) {
      await release(version);
      await banger(`vmm install ${version}`);
    }
    const used = async () =>
      (JSON.parse((await banger('vmm list --json')).stdout) as { version: string; isUsed: boolean }[]).map(
        ({ version, isUsed }) => `${version}${isUsed ? ' used' : ''}`,
      );
    assert.deepEqual(await used(), ['1.9.0', '1.13.1 used', '1.16.1']);
    assert.equal((await banger('vmm ls --names')).stdout, '1.9.0\n1.13.1\n1.16.1\n');

    assert.equal((await banger('vmm remove 1.13.1')).stdout, 'Firecracker 1.13.1 is gone; 1.16.1 is used now\n');
    assert.deepEqual(await used(), ['1.9.0', '1.16.1 used']);
    assert.equal((await banger('vmm rm 1.13.1')).status, 4);

    await symlink(join(store, '1.9.0', 'firecracker'), join(bin, 'firecracker'));
    assert.deepEqual(await used(), ['1.9.0 used', '1.9.0', '1.16.1']);
    assert.match(
      (await banger('vmm install 1.16.1')).stderr,
      /warning: VMs are started with .*\/bin\/firecracker, which comes first/,
    );
  });

  it('leave nothing behind with the last one', async (t) => {
    const { banger, release, store } = await setUp(t);
    await release('1.16.1');
    await banger('vmm install');
    assert.equal((await banger('vmm remove 1.16.1')).stdout, 'Firecracker 1.16.1 is gone\n');
    assert.deepEqual(await readdir(store), []);
  });
});
