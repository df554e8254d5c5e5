import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { tempDir } from '../support/temp-dir.ts';

const ROOT = join(import.meta.dirname, '../..');

async function judged(t: TestContext, text: string): Promise<{ status: number | null; said: string }> {
  const file = join(await tempDir(t), 'one.test.ts');
  writeFileSync(file, `import { describe, it } from 'node:test';\n${text}`);
  // a test run within one would report to it
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const argv = [join(ROOT, 'scripts/run-tests.ts'), file];
  const { status, stdout } = spawnSync(process.execPath, argv, { env, encoding: 'utf8', cwd: ROOT });
  return { status, said: stdout };
}

describe('a run of tests', () => {
  it('ends with how many passed, failed and were skipped', async (t) => {
    const { status, said } = await judged(t, "it('a', () => {}); it('b', { skip: 'KVM is not here' }, () => {});");
    assert.equal(status, 0, said);
    assert.match(said, /^1 passed, 0 failed, 1 skipped\n$/m);
  });

  for (const kind of ['it', 'describe']) {
    it(`fails when ${kind === 'it' ? 'a test' : 'a whole suite'} is skipped for a reason that nobody expects`, async (t) => {
      const { status, said } = await judged(t, `${kind}('a', { skip: 'not installed here: x' }, () => {});`);
      assert.equal(status, 1, said);
      assert.match(said, /^SKIPPED WITHOUT NEED .*: a$/m);
      assert.match(said, /^0 passed, 1 failed, 1 skipped$/m);
    });
  }
});

/** Those that every Debian has, and those that come with a package which another program is there for. */
const WITH_OTHERS = new Set([
  ...['apt-get', 'bash', 'cmp', 'cp', 'deb-systemd-helper', 'dpkg', 'dpkg-deb', 'dumpe2fs', 'e2fsck', 'env'],
  ...['fallocate', 'groupadd', 'groupdel', 'gzip', 'ldd', 'losetup', 'mount', 'nsenter', 'resize2fs', 'rpm', 'scp'],
  ...['script', 'setpriv', 'tar', 'truncate', 'umount', 'unshare', 'useradd', 'userdel', 'visudo', 'xfs_growfs'],
  'promtool', // may be missing
]);

describe('programs that tests look for', () => {
  it('are installed by make test, or come with what is', () => {
    const makefile = readFileSync(join(ROOT, 'Makefile'), 'utf8');
    const installed = new Set([...makefile.matchAll(/([\w.+-]+):[\w.+-]+/g)].map(([, program]) => program));
    const files = readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' });
    const texts = files
      .filter((name) => name.endsWith('.ts'))
      .map((name) => readFileSync(join(ROOT, 'test', name), 'utf8'));
    const calls = texts.flatMap((text) => [...text.matchAll(/\b(?:lacking|hostSkip|kvmSkip)\(([^)]*)\)/g)]);
    const wanted = new Set(
      calls.flatMap(([, list = '']) => [...list.matchAll(/'([\w.+-]+)'/g)].map(([, name = '']) => name)),
    );
    assert.ok(wanted.size > 30, `${wanted.size}`);
    assert.deepEqual(
      [...wanted].filter((name) => !installed.has(name) && !WITH_OTHERS.has(name)),
      [],
    );
  });
});
