"""The MLflow page as a newcomer meets it: a table's runs by accuracy, and in a run its curves, confusion matrix and
predictions; the models, and one that is registered."""
from children import until
from later import collecting

if not collecting:
    import mlflow


def names(page):
    "Runs in the order in which the page lists them."
    return page.eval_on_selector_all('.ag-center-cols-container .ag-row, .ag-pinned-left-cols-container .ag-row',
                                     "rows => rows.map(r => [Number(r.getAttribute('row-index')), r.innerText.trim()])"
                                     ".filter(r => r[1].includes(', seed '))"
                                     ".sort((a, b) => a[0] - b[0]).map(r => r[1])")


def by_accuracy(result):
    "Rows of the table in their order, best first; those with equal accuracy together."
    best = {}
    for line in result.itertuples(): best.setdefault(round(line.test_acc_video, 6), set()).add(line.row)
    return [best[accuracy] for accuracy in sorted(best, reverse=True)]


def close_pane(page):
    "MLflow's assistant comes by itself the first time, and hides columns."
    page.get_by_text('MLflow Assistant').first.wait_for()
    page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').first.click()
    page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').first.wait_for(state='detached')


def metrics_end_before(page, x):
    "The columns of both are in sight."
    for metric in ('test_acc_image', 'test_acc_video'):
        header = page.locator('.ag-header-cell', has_text=metric).first
        header.wait_for()
        place = header.bounding_box()
        assert place['x'] + place['width'] <= x, f'{metric} is cut off'


def test_page_lists_a_tables_runs_by_accuracy_and_opens_one(ui, table, page):
    address, result = ui[0], table[0]
    page.goto(f"{address}/{result.attrs['rows']}")
    page.get_by_text('two-stream, seed 0').first.wait_for()
    pane = page.get_by_text('MLflow Assistant').first
    pane.wait_for()
    metrics_end_before(page, pane.bounding_box()['x'])
    page.keep('ui_first')
    close_pane(page)
    metrics_end_before(page, 1400)
    page.keep('ui_by_accuracy')
    listed = until(lambda: len(names(page)) == len(result) and names(page))
    for tied in by_accuracy(result):
        shown, listed = listed[:len(tied)], listed[len(tied):]
        assert {name.partition(', seed ')[0].split('\n')[-1] for name in shown} == tied

    page.goto(address)
    page.get_by_text(result.attrs['table']).first.wait_for()
    assert not page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').count() # it stays closed
    page.keep('ui_experiments')
    page.go_back()
    page.get_by_text('normal, seed 0').first.click()
    page.get_by_text('test_acc_video').first.wait_for()
    page.keep('ui_run')
    page.get_by_role('tab', name='Model metrics').click()
    page.get_by_text('acc_video').first.wait_for()
    page.wait_for_selector('.js-plotly-plot .scatterlayer .js-line')
    until(lambda: page.locator('.js-plotly-plot').count() >= 2) # curves are drawn
    page.keep('ui_curves')

    page.get_by_role('tab', name='Artifacts').click()
    for name in ('confusion.png', 'curves.png', 'predictions.parquet', 'model.pth', 'environment.json'):
        page.get_by_text(name, exact=True).first.wait_for()
    page.get_by_text('confusion.png', exact=True).first.click()
    page.wait_for_function("[...document.querySelectorAll('img, canvas')].some(i => (i.naturalWidth || i.width) > 200)")
    page.keep('ui_confusion')


def test_models_have_a_page_each_and_in_the_registry(ui, table, page, monkeypatch):
    address, (result, uri) = ui[0], table
    monkeypatch.setenv('MLFLOW_TRACKING_URI', uri)
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.get_experiment_by_name('mei.table2').experiment_id
    model = mlflow.search_logged_models([experiment], "name = 'two-stream'", output_format='list')[0]
    mlflow.register_model(f'models:/{model.model_id}', 'actions')
    training = 'workflowType=machine_learning'

    page.goto(f'{address}/#/experiments/{experiment}/models?{training}')
    for name in result.row: page.get_by_text(name, exact=True).first.wait_for()
    close_pane(page)
    page.keep('ui_models')

    page.goto(f'{address}/#/experiments/{experiment}/models/{model.model_id}?{training}')
    page.get_by_text('mlflow models serve').first.wait_for()
    page.get_by_text('test_acc_video', exact=True).first.wait_for()
    page.keep('ui_model')

    page.goto(f'{address}/#/models/actions/versions/1?{training}')
    page.get_by_text('Inputs (2)').first.wait_for()
    page.get_by_text('Outputs (9)').first.wait_for()
