import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { spaceState } from '../../src/core/store-space.ts';
import { workMountProblem } from '../../src/core/work-mount.ts';

describe('workMountProblem', () => {
  for (const path of ['/root', '/home', '/srv/work', '/var/lib/postgresql', '/data/a.b_c-d@2', '/..a']) {
    it(`takes ${path}`, () => assert.equal(workMountProblem(path), undefined));
  }

  for (const [path, says] of [
    ['/', /on the root disk/],
    ['/var', /on the root disk/],
    ['', /not an absolute path/],
    ['work', /not an absolute path/],
    ['/proc', /belongs to the guest's system/],
    ['/dev/shm', /\/dev belongs/],
    ['/etc/ssh', /\/etc belongs/],
    ['/usr/local', /\/usr belongs/],
    ['/srv/../etc', /"\." or "\.\."/],
    ['/srv/.', /"\." or "\.\."/],
    ['/srv/', /no plain path/],
    ['//srv', /no plain path/],
    ["/srv/it's", /no plain path/],
    ['/srv/a b', /no plain path/],
    ['/srv/$(reboot)', /no plain path/],
    ['/srv/\nx', /no plain path/],
    [`/${'a'.repeat(300)}`, /no plain path/],
  ] as const) {
    it(`refuses ${JSON.stringify(path.slice(0, 30))}`, () => assert.match(workMountProblem(path) ?? '', says));
  }
});

describe('spaceState', () => {
  it('is low from nine tenths on and full below what is kept', () => {
    assert.equal(spaceState({ sizeBytes: 1000, freeBytes: 101 }, 50), 'ok');
    assert.equal(spaceState({ sizeBytes: 1000, freeBytes: 100 }, 50), 'low');
    assert.equal(spaceState({ sizeBytes: 1000, freeBytes: 50 }, 50), 'low');
    assert.equal(spaceState({ sizeBytes: 1000, freeBytes: 49 }, 50), 'full');
    assert.equal(spaceState({ sizeBytes: 1000, freeBytes: 400 }, 500), 'full');
  });
});
