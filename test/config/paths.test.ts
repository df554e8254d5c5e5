import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';
import { resolvePaths, socketPath } from '../../src/config/paths.ts';

describe('resolvePaths', () => {
  it("gives root the system's directories", () => {
    assert.deepEqual(resolvePaths({}, 0), {
      state: '/var/lib/banger',
      cache: '/var/cache/banger',
      run: '/run/banger',
      store: '/var/lib/banger/store',
      bundles: '/var/lib/banger/bundles',
      configFiles: ['/etc/banger/config.toml', '/root/.config/banger/config.toml'],
    });
  });

  it('gives a user the XDG directories', () => {
    const paths = resolvePaths({ HOME: '/home/ann', XDG_RUNTIME_DIR: '/run/user/1000' }, 1000);
    assert.deepEqual(paths, {
      state: '/home/ann/.local/state/banger',
      cache: '/home/ann/.cache/banger',
      run: '/run/user/1000/banger',
      store: '/home/ann/.local/state/banger/store',
      bundles: '/home/ann/.local/state/banger/bundles',
      configFiles: ['/etc/banger/config.toml', '/home/ann/.config/banger/config.toml'],
    });
    const moved = resolvePaths(
      { HOME: '/home/ann', XDG_STATE_HOME: '/s', XDG_CACHE_HOME: '/c', XDG_CONFIG_HOME: '/f' },
      1,
    );
    assert.deepEqual(
      [moved.state, moved.cache, moved.configFiles[1]],
      ['/s/banger', '/c/banger', '/f/banger/config.toml'],
    );
  });

  it('ignores relative XDG directories, as their specification says', () => {
    assert.equal(resolvePaths({ HOME: '/home/ann', XDG_CACHE_HOME: 'cache' }, 1000).cache, '/home/ann/.cache/banger');
  });

  it('keeps the run directory with the state where no login session has one', () => {
    const uid = 987_654;
    assert.equal(existsSync(`/run/user/${uid}`), false);
    assert.equal(resolvePaths({ HOME: '/home/ann' }, uid).run, '/home/ann/.local/state/banger/run');
  });

  it('puts everything of one banger under BANGER_HOME', () => {
    const paths = resolvePaths({ HOME: '/home/ann', BANGER_HOME: '/srv/b', XDG_RUNTIME_DIR: '/run/user/1000' }, 1000);
    assert.deepEqual(paths, {
      state: '/srv/b/state',
      cache: '/srv/b/cache',
      run: '/srv/b/run',
      store: '/srv/b/state/store',
      bundles: '/srv/b/state/bundles',
      configFiles: ['/srv/b/config.toml'],
    });
    assert.equal(socketPath(paths), '/srv/b/run/bangerd.sock');
  });

  it('lets single variables move single directories', () => {
    const env = { BANGER_HOME: '/srv/b', BANGER_PATHS_RUN: '/tmp/r', BANGER_PATHS_STATE: '/tmp/s' };
    const { run, state, store, cache } = resolvePaths(env, 0);
    assert.deepEqual(
      { run, state, store, cache },
      { run: '/tmp/r', state: '/tmp/s', store: '/tmp/s/store', cache: '/srv/b/cache' },
    );
  });

  it('refuses a relative BANGER_HOME, which would name another place in each directory', () => {
    assert.throws(() => resolvePaths({ BANGER_HOME: 'here' }, 0), {
      code: 'invalid_input',
      message: /BANGER_HOME holds "here"/,
    });
  });

  it('says that HOME is missing when a user has none', () => {
    assert.throws(() => resolvePaths({}, 1000), { code: 'invalid_input', message: /HOME is not set/ });
  });

  it('needs no library, so that a client stays quick', async () => {
    const { readFile } = await import('node:fs/promises');
    for (const file of ['paths.ts', 'schema.ts']) {
      const source = await readFile(new URL(`../../src/config/${file}`, import.meta.url), 'utf8');
      const imported = [...source.matchAll(/^import (?!type).*from '([^']+)'/gm)].map((match) => match[1] ?? '');
      for (const name of imported) assert.match(name, /^(node:|\.\.?\/)/, `${file} imports ${name}`);
    }
  });
});
