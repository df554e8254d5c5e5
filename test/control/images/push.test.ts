/** Images as OCI images: the same files give the same bytes, here, where they were pulled to, and as other programs unpack them. */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { viewImageDetail } from '../../../src/control/images/catalogue.ts';
import { pullImage } from '../../../src/control/images/pull.ts';
import { pushImage } from '../../../src/control/images/push.ts';
import { BangerError } from '../../../src/errors.ts';
import { ociFiles } from '../../../src/storage/layout.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { privateRegistry } from '../../support/fake-registry.ts';
import { rawTar, writeOciLayout } from '../../support/oci-image.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { type ImagePlace, imagePlace } from './image-host.ts';

const hasAgent = existsSync(join(import.meta.dirname, '../../../dist/banger-agent'));
const skip = lacking('skopeo') || (!hasAgent && 'dist/banger-agent is not compiled (make build)');
const signal = new AbortController().signal;

const CAPABILITY = '\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00';
/** user::rw-, user:1000:r--, group::r--, mask::r--, other::--- */
const ACL = [2, 0, 0, 0]
  .concat([1, 0, 6, 0, 255, 255, 255, 255], [2, 0, 4, 0, 232, 3, 0, 0], [4, 0, 4, 0, 255, 255, 255, 255])
  .concat([16, 0, 4, 0, 255, 255, 255, 255], [32, 0, 0, 0, 255, 255, 255, 255]);

const CONFIG = {
  ...{ Entrypoint: ['/app'], Cmd: ['-v'], Env: ['A=b'], User: '7:8', WorkingDir: '/srv', StopSignal: 'SIGINT' },
  ...{ ExposedPorts: { '80/tcp': {} }, Volumes: { '/data': {} }, Labels: { b: '2', a: '1' } },
  Healthcheck: { Test: ['CMD', '/app'], Interval: 5_000_000_000, Retries: 2 },
};

/** One of everything that a file can be, in two layers. */
async function oddLayout(dir: string): Promise<string> {
  const layout = join(dir, 'odd');
  const long = `${'d'.repeat(90)}/${'e'.repeat(90)}/${'f'.repeat(90)}`;
  const lower = rawTar([
    { path: 'etc/', type: '5', mode: 0o755, uid: 1000, gid: 2000 },
    { path: 'etc/gone', data: 'x' },
    { path: 'etc/file', data: 'text', mode: 0o4755, uid: 7, pax: { 'SCHILY.xattr.security.capability': CAPABILITY } },
    { path: 'etc/acl', data: 'a', pax: { 'SCHILY.xattr.system.posix_acl_access': String.fromCharCode(...ACL) } },
    { path: 'etc/large', data: 'b', pax: { 'SCHILY.xattr.user.large': 'v'.repeat(900), uid: '3000000' } },
    { path: 'etc/same', type: '1', target: 'etc/file' },
    { path: 'a-link', type: '2', target: 'etc/file' },
    { path: 'b-link', type: '2', target: '', pax: { linkpath: 'y'.repeat(150) } },
    { path: 'null', type: '3', mode: 0o666 },
    { path: 'pipe', type: '6' },
    { path: 'tmp/', type: '5', mode: 0o1777 },
    { path: 'f\xc3\xa4hr\xff', data: 'bytes' },
    { path: 'x', data: 'deep', pax: { path: long } },
    {
      path: 'holes',
      data: 'ABCD'.repeat(2048),
      pax: { 'GNU.sparse.numblocks': '2', 'GNU.sparse.map': '0,4096,5001216,4096', 'GNU.sparse.size': '9000000' },
    },
    {
      path: 'small-hole',
      data: 'E'.repeat(4096),
      pax: { 'GNU.sparse.numblocks': '1', 'GNU.sparse.map': '8192,4096', 'GNU.sparse.size': '20000' },
    },
    { path: 'big', data: 'z'.repeat(3_000_001) },
  ]);
  const upper = rawTar([{ path: 'etc/.wh.gone' }, { path: 'app', data: '#!/bin/sh\n', mode: 0o755 }]);
  await writeOciLayout(layout, { layers: [{ tar: lower }, { tar: upper }], config: CONFIG });
  return layout;
}

function pull({ host, progress }: ImagePlace, reference: string, more: Partial<Parameters<typeof pullImage>[1]> = {}) {
  return pullImage(host, { reference, ...more }, progress, signal);
}

function push({ host, progress }: ImagePlace, reference: string, more: Partial<Parameters<typeof pushImage>[2]> = {}) {
  return pushImage(host, 'odd', { reference, ...more }, progress, signal);
}

/** What umoci makes of a layout: a line for each file, with owner, mode, kind, size, links, target and attributes. */
async function unpacked(t: TestContext, layout: string): Promise<string[]> {
  const dir = await tempDir(t);
  const run = (program: string, ...words: string[]) =>
    execFileSync(program, words, { encoding: 'latin1', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 2 ** 26 });
  run('skopeo', '--insecure-policy', 'copy', '-q', `oci:${layout}`, `oci:${join(dir, 'named')}:x`);
  run('umoci', 'unpack', '--image', `${join(dir, 'named')}:x`, join(dir, 'bundle'));
  const root = join(dir, 'bundle/rootfs');
  const files = run('find', root, '-printf', '%P\\t%y %m %U:%G %s %n %T@ %l\\n').trim().split('\n').sort();
  const sums = run('sh', '-c', 'cd "$1" && find . -type f -exec sha256sum {} + | sort', 'sh', root);
  const attributes = run('getfattr', '-R', '-h', '-d', '-m', '-', '--absolute-names', root).replaceAll(root, '');
  // of directories it is this machine's: when something was put in
  const own = files.map((line) => (/(?:^|\t)d /.test(line) ? line.replace(/ \d+ \d+ [\d.]+ $/, '') : line));
  return [...own, ...sums.split('\n'), ...attributes.split('\n\n').sort()];
}

describe('pushing an image', { skip }, () => {
  it('gives what umoci makes of the image it was pulled as, in one layer, and the same bytes each time', {
    skip: lacking('umoci', 'getfattr') || (process.getuid?.() !== 0 && 'needs root, for owners and devices'),
  }, async (t) => {
    const here = await imagePlace(t);
    const layout = await oddLayout(here.dir);
    await pull(here, `oci:${layout}`);
    const [first, second] = [join(here.dir, 'first'), join(here.dir, 'second')];
    const pushed = await push(here, `oci:${first}`);
    assert.deepEqual({ ...(await push(here, `oci:${second}`)), reference: '' }, { ...pushed, reference: '' });
    assert.deepEqual(await unpacked(t, first), await unpacked(t, layout));

    // another host
    const there = await imagePlace(t);
    await pull(there, `oci:${first}`, { name: 'odd', diskBytes: 300 * 1024 * 1024 });
    const again = await push(there, `oci:${join(there.dir, 'again')}`);
    assert.deepEqual([again.tree, again.sizeBytes], [pushed.tree, pushed.sizeBytes]);
    const [before, after] = [await viewImageDetail(here.host, 'odd'), await viewImageDetail(there.host, 'odd')];
    const same = ({ oci }: typeof before) => ({ ...oci, reference: '', digest: '' });
    assert.deepEqual(same(after), same(before));
  });

  it('is read by a registry that asks for a password, which is said nowhere', {
    skip: lacking('docker-registry', 'htpasswd'),
  }, async (t) => {
    const here = await imagePlace(t);
    await pull(here, `oci:${await oddLayout(here.dir)}`);
    const registry = await privateRegistry(t, join(here.dir, 'registry'), { user: 'ann', password: 'pw' }, 'password');
    await assert.rejects(push(here, `${registry}/team/odd:2`), { code: 'host_unprepared', message: /another login/ });
    const authFile = join(here.dir, 'auth.json');
    const auth = Buffer.from('ann:pw').toString('base64');
    await writeFile(authFile, JSON.stringify({ auths: { [registry]: { auth } } }));
    const pushed = await push(here, `${registry}/team/odd:2`, { authFile });
    const there = await imagePlace(t);
    const exact = `${registry}/team/odd@${pushed.digest}`;
    assert.equal((await pull(there, exact, { authFile, name: 'odd' })).pulled, true);
    assert.equal((await push(there, `oci:${join(there.dir, 'again')}`)).tree, pushed.tree);
    const raw = await promisify(execFile)('skopeo', [
      ...['inspect', '--raw', '--tls-verify=false', '--authfile', authFile],
      `docker://${registry}/team/odd:2`,
    ]);
    assert.equal(JSON.parse(raw.stdout).layers.length, 1);
  });

  it('writes archives, and over nothing that is there', async (t) => {
    const here = await imagePlace(t);
    await pull(here, `oci:${await oddLayout(here.dir)}`);
    for (const transport of ['oci-archive', 'docker-archive'] as const) {
      const reference = `${transport}:${join(here.dir, `${transport}.tar`)}`;
      const pushed = await push(here, reference);
      await assert.rejects(push(here, reference), { code: 'conflict' });
      const image = await pull(here, reference, { name: `from-${transport}` });
      const again = await pushImage(
        here.host,
        image.name,
        { reference: `oci:${join(here.dir, image.name)}` },
        here.progress,
        signal,
      );
      assert.equal(again.tree, pushed.tree);
    }
    const digest = `sha256:${'a'.repeat(64)}`;
    await assert.rejects(push(here, `localhost/x@${digest}`), { code: 'invalid_input' });
    await assert.rejects(push(here, '127.0.0.1:9/x:1'), {
      code: 'host_unprepared',
      message: /cannot be reached|fails/,
    });
    assert.deepEqual(await readdir(ociFiles(here.host.config.paths.store).pulls), []);
  });

  it('says what the image said when it began, and leaves nothing of a file when it is called off', async (t) => {
    const here = await imagePlace(t);
    await pull(here, `oci:${await oddLayout(here.dir)}`);
    const record = join(here.host.config.paths.store, 'images', here.host.stores.images.get('odd').id, 'oci.json');
    const kept = await readFile(record);
    const steps: string[] = [];
    const during = (act: (step: string) => void, to: string, until = signal) => {
      const step = (name: string) => {
        steps.push(name);
        act(name);
      };
      return pushImage(here.host, 'odd', { reference: `oci:${join(here.dir, to)}` }, { ...here.progress, step }, until);
    };
    // another image got its name meanwhile
    await during((step) => step === 'pack' && rmSync(record), 'out');
    await writeFile(record, kept);
    await pull(here, `oci:${join(here.dir, 'out')}`, { name: 'back' });
    const of = async (name: string) => (await viewImageDetail(here.host, name)).oci?.entrypoint;
    assert.deepEqual(await of('back'), ['/app']);

    const stop = new AbortController();
    await assert.rejects(during((step) => step === 'push' && stop.abort(), 'half', stop.signal));
    assert.deepEqual(
      (await readdir(here.dir)).filter((name) => name.startsWith('half')),
      [],
    );
    steps.length = 0;
    await assert.rejects(
      during(() => {}, 'none/x'),
      { code: 'not_found', hint: `Make it: mkdir -p ${join(here.dir, 'none')}` },
    );
    assert.deepEqual(steps, []);
  });

  it('is refused for a file system that is not read, or damaged, and leaves nothing', async (t) => {
    const here = await imagePlace(t);
    await pull(here, `oci:${await oddLayout(here.dir)}`);
    const { rootfs } = await viewImageDetail(here.host, 'odd');
    const bytes = await readFile(rootfs);
    // numbers of blocks in the table of inodes lead beyond the end
    const table = bytes.readUInt32LE(4096 + 8) * 4096;
    for (let inode = 11; inode < 40; inode++) bytes.writeUInt32LE(0xfffffff0, table + inode * 256 + 0x28 + 20);
    await writeFile(rootfs, bytes);
    await assert.rejects(push(here, `oci:${join(here.dir, 'x')}`), (error) => {
      assert.ok(error instanceof BangerError && error.code === 'corrupt', String(error));
      return true;
    });
    assert.ok(!existsSync(join(here.dir, 'x')));
    bytes.write('XFSB', 0);
    bytes.fill(0, 1024, 4096);
    await writeFile(rootfs, bytes);
    await assert.rejects(push(here, `oci:${join(here.dir, 'x')}`), BangerError);
  });
});
