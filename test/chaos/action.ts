/** One thing a chaos run does, and when it is possible. */
import type fc from 'fast-check';
import { createRunner } from '../../src/system/runner.ts';
import type { TestHost } from '../support/host.ts';
import { type Model, surelyRuns } from './model.ts';
import { verify } from './observe.ts';

export const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

export const NAMES = ['ant', 'bee', 'cat'];
/** More would only wait for each other on two cores. */
const MAX_RUNNING = 2;
export const MIB = 2 ** 20;

export interface Real {
  host: TestHost;
  /** hears of each command before it runs */
  tell(text: string): void;
}

export interface Action {
  title: string;
  possible(model: Model): boolean;
  run(model: Model, real: Real): Promise<void>;
}

/** An action as fast-check wants it; after each one everything must agree. */
export function command(action: Action): fc.AsyncCommand<Model, Real> {
  return {
    check: (model) => action.possible(model),
    async run(model, real) {
      real.tell(action.title);
      await action.run(model, real);
      await verify(real.host, model);
    },
    toString: () => action.title,
  };
}

/** Whether one more may run. */
export function hasRoom(model: Model): boolean {
  return NAMES.filter((each) => surelyRuns(model, each)).length < MAX_RUNNING;
}
