/** What a chaos run may do, in its frequencies: an accident now and then, work most of the time. */
import fc from 'fast-check';
import * as accident from './accidents.ts';
import { type Action, command, NAMES, type Real } from './action.ts';
import type { Model } from './model.ts';
import * as moment from './moments.ts';
import * as snapshot from './snapshots.ts';
import * as work from './work.ts';

export function chaosCommands(): fc.MaybeWeightedArbitrary<fc.AsyncCommand<Model, Real>>[] {
  const name = fc.constantFrom(...NAMES);
  const image = fc.constantFrom(...work.IMAGES);
  const delayMs = fc.integer({ min: 0, max: 4000 });
  // a build and a change of image boot a guest, and are cut off in any part of that
  const longDelayMs = fc.integer({ min: 0, max: 12_000 });
  const named = (make: (name: string) => Action) => name.map((each) => command(make(each)));
  // what most others need first
  const often = (arbitrary: ReturnType<typeof named>) => ({ arbitrary, weight: 4 });
  const alone = (action: Action) => fc.constant(command(action));
  return [
    often(named(work.create)),
    often(named(work.start)),
    named(work.stop),
    often(named(work.suspend)),
    often(named(work.resume)),
    named(work.discardMemory),
    fc.tuple(name, name).map(([from, to]) => command(work.fork(from, to))),
    named(work.kill),
    named(work.remove),
    named(work.restore),
    often(named(work.write)),
    fc.tuple(name, fc.integer({ min: 0, max: 200 })).map(([each, status]) => command(work.exec(each, status))),
    fc.tuple(name, name).map(([from, to]) => command(work.rename(from, to))),
    named(work.resize),
    often(named(snapshot.take)),
    named(snapshot.putBack),
    named(snapshot.thereAndBack),
    often(named(moment.take)),
    often(named(moment.goBack)),
    fc.tuple(name, name).map(([from, to]) => command(moment.asAnother(from, to))),
    fc.tuple(name, delayMs).map(([each, delay]) => command(moment.daemonDiesDuring(each, delay))),
    named(work.guestReboots),
    named(work.clientsAtOnce),
    image.map((each) => command(work.build(each))),
    image.map((each) => command(work.removeImage(each))),
    often(fc.tuple(name, image).map(([vm, each]) => command(work.rebase(vm, each)))),
    alone(accident.daemonDies),
    fc
      .tuple(fc.constantFrom('create', 'start', 'stop', 'remove', 'resize', 'suspend', 'resume'), name, delayMs)
      .map((all) => command(accident.daemonDiesDuring(...all))),
    fc.tuple(image, longDelayMs).map((all) => command(accident.daemonDiesDuringBuild(...all))),
    fc.tuple(name, image, longDelayMs).map((all) => command(accident.daemonDiesDuringRebase(...all))),
    fc.tuple(name, delayMs).map(([each, delay]) => command(snapshot.daemonDiesDuringRestore(each, delay))),
    named(accident.vmmDies),
    named(accident.machineDies),
    named(accident.vmmHangs),
    fc.tuple(name, delayMs).map(([each, delay]) => command(accident.writeIsCutOff(each, delay))),
    alone(accident.rulesAreFlushed),
    named(accident.tapIsRemoved),
    alone(accident.daemonsAtOnce),
    named(accident.storeIsFull),
  ];
}
