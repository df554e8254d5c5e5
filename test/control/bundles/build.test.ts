import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { BundleEvent } from '../../../src/bundle/progress.ts';
import { readBundle } from '../../../src/bundle/store/manifest.ts';
import { verifyBundle } from '../../../src/bundle/store/verify.ts';
import { type BuildBundleRequest, buildBundle } from '../../../src/control/bundles/build.ts';
import { MIB } from '../../../src/units.ts';
import { type SampleArchive, sampleArchive } from '../../bundle/sample-archive.ts';
import { lacking, RELEASE, runner } from '../../bundle/sample-bundle.ts';
import { tempDir } from '../../support/temp-dir.ts';

interface Place {
  dir: string;
  output: string;
  archive: SampleArchive;
  helpers: Record<string, string>;
  agent: Buffer;
  events: BundleEvent[];
  build(request?: Partial<BuildBundleRequest>, signal?: AbortSignal): ReturnType<typeof buildBundle>;
  /** whether packages were installed by the builds since the last call */
  installed(): boolean;
}

async function place(t: TestContext): Promise<Place> {
  const dir = await tempDir(t);
  const sourcesFile = join(dir, 'debian.list');
  await writeFile(sourcesFile, 'deb http://archive.example/debian bookworm main\n');
  const archive = sampleArchive();
  const p: Place = {
    dir,
    output: join(dir, 'out/debian'),
    archive,
    helpers: { 'verify.sh': '#!/bin/bash\n' },
    agent: Buffer.from('an agent'),
    events: [],
    build: (request = {}, signal) =>
      buildBundle(
        {
          runner: archive,
          programs: { mmdebstrap: 'mmdebstrap', mke2fs: 'mke2fs', xz: 'xz', lz4: 'lz4' },
          env: process.env,
          cacheDir: join(dir, 'cache'),
          uid: 0,
          helpers: p.helpers,
          agent: p.agent,
          now: () => new Date('2026-05-06T07:08:09Z'),
        },
        { suite: 'bookworm', output: p.output, sizeBytes: 128 * MIB, sourcesFile, ...request },
        (event) => p.events.push(event),
        signal,
      ),
    installed() {
      const found = archive.calls.some((call) => call.startsWith('mmdebstrap'));
      archive.calls = [];
      return found;
    },
  };
  return p;
}

/** What the image holds at a path, read without mounting it. */
async function inImage(image: string, path: string): Promise<string> {
  const { stdout } = await runner.run(['debugfs', '-R', `cat ${path}`, image], { env: sbin });
  return stdout;
}

async function namesIn(image: string, path: string): Promise<string[]> {
  const { stdout } = await runner.run(['debugfs', '-R', `ls -p ${path}`, image], { env: sbin });
  const names = [...stdout.matchAll(/^\/\d+\/\d+\/\d+\/\d+\/([^/]*)\//gm)].map((match) => match[1] ?? '');
  return names.filter((name) => name !== '.' && name !== '..').sort();
}

const sbin = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };

describe('building a bundle', { skip: lacking('mke2fs', 'debugfs') }, () => {
  it('makes one that verifies, named by its suite, from the packages of the archive', async (t) => {
    const p = await place(t);
    const { bundle, built } = await p.build();
    assert.equal(built, true);
    assert.equal(bundle.manifest.name, 'debian-bookworm');
    assert.equal(bundle.manifest.created, '2026-05-06T07:08:09.000Z');
    assert.equal(bundle.manifest.modules, `modules/${RELEASE}`);
    assert.deepEqual(bundle.manifest.helpers, ['helpers/verify.sh']);
    assert.equal((await stat(join(p.output, 'helpers/verify.sh'))).mode & 0o777, 0o755);
    assert.equal(await readFile(join(p.output, 'rootfs.packages'), 'utf8'), 'apt 2.6.1 amd64\nzlib1g 1.2 amd64\n');
    const verdict = await verifyBundle(p.output, { arch: 'x86_64' });
    assert.deepEqual(
      verdict.checks.filter((check) => !check.ok),
      [],
    );
    assert.deepEqual(await readdir(join(p.dir, 'out')), ['debian']);
  });

  it('leaves no identity, cache, key, proxy or log in the root, and nothing else out', async (t) => {
    const p = await place(t);
    const { rootfs } = (await p.build()).bundle;
    assert.equal(await inImage(rootfs, '/etc/machine-id'), '');
    assert.equal(await inImage(rootfs, '/etc/hostname'), 'localhost\n');
    assert.deepEqual(await namesIn(rootfs, '/etc/ssh'), ['sshd_config']);
    assert.deepEqual(await namesIn(rootfs, '/etc/apt/sources.list.d'), ['debian.sources']);
    assert.deepEqual(await namesIn(rootfs, '/etc/apt/apt.conf.d'), ['90host-archive']);
    for (const path of ['/var/lib/apt/lists', '/var/cache/apt/archives', '/tmp']) {
      assert.deepEqual(await namesIn(rootfs, path), [], path);
    }
    assert.deepEqual(await namesIn(rootfs, '/var/log'), ['journal']);
    assert.deepEqual(await namesIn(rootfs, '/usr/lib/modules'), [RELEASE]);
    assert.equal(await inImage(rootfs, '/usr/lib/os-release'), 'ID=debian\n');
  });

  it('holds nothing that only root may read because the builder keeps its files to itself', async (t) => {
    const p = await place(t);
    const umask = process.umask(0o077); // as the daemon has it
    t.after(() => process.umask(umask));
    const { rootfs } = (await p.build()).bundle;
    const mode = async (path: string) =>
      /Mode:\s+(\d+)/.exec((await runner.run(['debugfs', '-R', `stat ${path}`, rootfs], { env: sbin })).stdout)?.[1];
    for (const path of ['/etc', '/etc/apt/sources.list.d', '/usr/lib/modules', `/usr/lib/modules/${RELEASE}`]) {
      assert.equal(await mode(path), '0755', path);
    }
    const module = (await namesIn(rootfs, `/usr/lib/modules/${RELEASE}`)).find((name) => name.startsWith('modules.'));
    const files = ['/etc/hosts', '/etc/hostname', '/etc/machine-id', '/etc/resolv.conf', '/etc/fstab'];
    const listed = ['/etc/apt/sources.list.d/debian.sources', `/usr/lib/modules/${RELEASE}/${module}`];
    for (const path of [...files, ...listed]) assert.equal(await mode(path), '0644', path);
  });

  it("lets the guest reach the archive as the host does, without the host's files and passwords", async (t) => {
    const p = await place(t);
    const { rootfs } = (await p.build()).bundle;
    assert.equal(
      await inImage(rootfs, '/etc/apt/apt.conf.d/90host-archive'),
      'Acquire::Check-Valid-Until "false";\nAcquire::http::Proxy "http://proxy.example:3128";\n',
    );
    assert.match(
      await inImage(rootfs, '/etc/apt/sources.list.d/debian.sources'),
      /URIs: http:\/\/archive.example\/debian\n/,
    );
  });

  it("downloads through the host's proxies, certificates and credentials, in an apt of its own", async (t) => {
    const p = await place(t);
    await p.build();
    const config = await readFile(join(p.dir, 'cache/apt/bookworm-x86_64/apt.conf'), 'utf8');
    for (const line of [
      'Acquire::https::Proxy "http://user:secret@proxy.example:3128";',
      'Acquire::https::CAInfo "/etc/company.pem";',
      'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";',
      `Dir::State::status "${join(p.dir, 'cache/apt/bookworm-x86_64/status')}";`,
      'Acquire::Languages "none";',
    ]) {
      assert.ok(config.includes(`${line}\n`), `${line} in:\n${config}`);
    }
    assert.doesNotMatch(config, /"de"|GzipIndexes/);
  });

  it('tells each phase, and how far the checksums are', async (t) => {
    const p = await place(t);
    await p.build();
    assert.deepEqual(
      [...new Set(p.events.map((event) => event.phase))],
      [
        ...['resolve packages', 'download kernel', 'unpack kernel', 'make initrd', 'install packages'],
        ...['make file system', 'compute checksums', 'put in place'],
      ],
    );
    const sums = p.events.filter((event) => event.phase === 'compute checksums');
    assert.equal(sums.at(-1)?.done, sums.at(-1)?.total);
    // few of this small root: holes are passed over at once
    assert.ok(sums.length > 2 && sums.length <= 101, `${sums.length} events`);
  });
});

describe('building a bundle again', { skip: lacking('mke2fs') }, () => {
  it('does nothing when nothing has changed, and says so', async (t) => {
    const p = await place(t);
    await p.build();
    const before = (await stat(join(p.output, 'bundle.json'))).mtimeMs;
    p.installed();
    const again = await p.build();
    assert.equal(again.built, false);
    assert.match(again.reason, /Nothing .* has changed/);
    assert.equal(p.installed(), false);
    assert.equal((await stat(join(p.output, 'bundle.json'))).mtimeMs, before);
  });

  const changes: Record<string, (p: Place) => void> = {
    'a package in the archive is newer': ({ archive }) => {
      archive.versions.apt = '2.6.2';
    },
    'the kernel is newer': ({ archive }) => {
      archive.versions[`linux-image-${RELEASE}`] = '6.1.2-1';
    },
    'a helper script is another': ({ helpers }) => {
      helpers['verify.sh'] = '#!/bin/bash\ntrue\n';
    },
    'the agent is another': (p) => {
      p.agent = Buffer.from('a newer agent');
    },
  };
  for (const [what, change] of Object.entries(changes)) {
    it(`does it anew when ${what}`, async (t) => {
      const p = await place(t);
      await p.build();
      change(p);
      assert.equal((await p.build()).built, true);
      assert.equal((await p.build()).built, false);
    });
  }

  for (const [what, request] of [
    ['another size', { sizeBytes: 160 * MIB }],
    ['another name', { name: 'mine' }],
    ['more packages', { packages: ['git'] }],
    ['a rebuild', { force: true }],
  ] as const) {
    it(`does it anew when ${what} is asked for`, async (t) => {
      const p = await place(t);
      await p.build();
      assert.equal((await p.build(request)).built, true);
    });
  }

  it('does it anew when the bundle in place is damaged', async (t) => {
    const p = await place(t);
    await p.build();
    await writeFile(join(p.output, 'initrd.img'), 'cut short');
    assert.equal((await p.build()).built, true);
  });

  it('keeps the bundle in place when the archive cannot be reached', async (t) => {
    const p = await place(t);
    await p.build();
    p.archive.reachable = false;
    const kept = await p.build();
    assert.equal(kept.built, false);
    assert.match(kept.reason, /cannot be reached/);
    await assert.rejects(p.build({ sizeBytes: 160 * MIB }), { code: 'command_failed', hint: /apt-get update/ });
  });

  it('keeps the old bundle usable until the new one is complete', async (t) => {
    const p = await place(t);
    await p.build();
    let seen = false;
    p.archive.onInstall = async () => {
      seen = (await verifyBundle(p.output, { arch: 'x86_64' })).ok;
    };
    await p.build({ force: true });
    assert.equal(seen, true);
  });
});

describe('a build that fails', { skip: lacking('mke2fs') }, () => {
  it('leaves nothing, and what was in place as it was', async (t) => {
    const p = await place(t);
    await p.build();
    p.archive.onInstall = () => Promise.reject(new Error('dpkg broke'));
    await assert.rejects(p.build({ force: true }), /dpkg broke/);
    assert.deepEqual(await readdir(join(p.dir, 'out')), ['debian']);
    assert.equal((await verifyBundle(p.output, { arch: 'x86_64' })).ok, true);
  });

  it('because it was cancelled leaves nothing', async (t) => {
    const p = await place(t);
    const controller = new AbortController();
    p.archive.onInstall = async () => controller.abort();
    await assert.rejects(p.build({}, controller.signal));
    assert.deepEqual(await readdir(join(p.dir, 'out')), []);
  });

  it('because the packages do not fit says so', async (t) => {
    const p = await place(t);
    p.archive.onInstall = async (root) => {
      await runner.run(['dd', 'if=/dev/urandom', `of=${join(root, 'usr/big')}`, 'bs=1M', 'count=140', 'status=none']);
    };
    await assert.rejects(p.build(), { code: 'invalid_input', message: /128 MiB is too small/, hint: /--size/ });
    assert.deepEqual(await readdir(join(p.dir, 'out')), []);
  });

  it('is refused while another of the same bundle runs', async (t) => {
    const p = await place(t);
    let second: Promise<unknown> | undefined;
    p.archive.onInstall = async () => {
      second ??= p.build().catch((error: unknown) => error);
      await second;
    };
    await p.build();
    assert.equal(((await second) as { code?: string }).code, 'conflict');
  });
});

describe('a build is refused before anything is touched', () => {
  it('for a suite, name, package or size that cannot be', async (t) => {
    const p = await place(t);
    for (const request of [
      { suite: '../etc' },
      { suite: 'Book Worm' },
      { name: '../x' },
      { name: 'default' },
      { packages: ['--help'] },
      { packages: ['a;rm'] },
      { sizeBytes: 1000 },
    ]) {
      await assert.rejects(p.build(request), { code: 'invalid_input' }, JSON.stringify(request));
    }
    assert.deepEqual(p.archive.calls, []);
  });

  it('for a directory that holds something else than a bundle', async (t) => {
    const p = await place(t);
    await mkdir(p.output, { recursive: true });
    await writeFile(join(p.output, 'thesis.tex'), 'years of work');
    await assert.rejects(p.build({ force: true }), { code: 'conflict', message: /holds files but no bundle/ });
    assert.equal(await readFile(join(p.output, 'thesis.tex'), 'utf8'), 'years of work');
    await assert.rejects(p.build({ output: join(p.output, 'thesis.tex') }), { code: 'conflict' });
  });

  it('for a sources file that holds no source', async (t) => {
    const p = await place(t);
    const sourcesFile = join(p.dir, 'empty.list');
    await writeFile(sourcesFile, '# nothing\n');
    await assert.rejects(p.build({ sourcesFile }), { code: 'invalid_input', message: /holds no apt source/ });
  });
});

describe('an output that is a link', { skip: lacking('mke2fs') }, () => {
  it('stays a link, and the bundle goes where it leads', async (t) => {
    const p = await place(t);
    await mkdir(join(p.dir, 'out'));
    await mkdir(join(p.dir, 'out/real'));
    await symlink('real', p.output);
    await p.build();
    assert.equal((await readBundle(p.output)).kernel, join(p.dir, 'out/real/vmlinux'));
    assert.deepEqual(await readdir(join(p.dir, 'out')), ['debian', 'real']);
  });
});
